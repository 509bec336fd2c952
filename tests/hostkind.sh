#!/bin/sh
# Print the kind of this host: vmx, svm, pvm (its KVM emulates kernel mode: the CPU shows neither flag)
# or none (no /dev/kvm, or this user may not read and write it).
if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
	echo none
elif grep -qm1 '^flags.*\bvmx\b' /proc/cpuinfo; then
	echo vmx
elif grep -qm1 '^flags.*\bsvm\b' /proc/cpuinfo; then
	echo svm
else
	echo pvm
fi
