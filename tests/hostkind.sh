#!/bin/sh
# Which kind of host this is: vmx, svm, pvm (a KVM that emulates kernel mode: neither flag is
# there) or none (no /dev/kvm, or not for us).
if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
	echo none
elif grep -qm1 '^flags.*\bvmx\b' /proc/cpuinfo; then
	echo vmx
elif grep -qm1 '^flags.*\bsvm\b' /proc/cpuinfo; then
	echo svm
else
	echo pvm
fi
