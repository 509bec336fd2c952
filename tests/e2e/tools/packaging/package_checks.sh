#!/bin/sh
# Run in a clean Debian for long_packages.py: package_checks.sh chroot|systemd RESULT. RESULT ends with "ok" if all is
# well.
# chroot: no systemd runs. systemd: this is a unit of the Debian's own systemd.
exec >"$2" 2>&1
set -eux
export CAIRN_SOCKET=/run/cairn/cairn.sock DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

is_gone() { # nothing of the packages is left
	left=$(find / -xdev \( -path /root -o -path /share -o -path /proc -o -path /sys \) -prune -o -name '*cairn*' ! -name Pitcairn -print)
	[ -z "$left" ]
}

in_chroot() {
	dpkg -i /share/cairn.deb /share/cairn-img.deb /share/cairn-web.deb /share/libcairn-dev.deb /share/cairn-doc.deb
	cairn --version
	cairn-img create -f qcow2 /root/a.qcow2 16M
	getent group kvm
	[ -L /etc/systemd/system/multi-user.target.wants/cairnd.service ]
	AUTOPKGTEST_TMP=$(mktemp -d) sh /share/autopkgtest
	dpkg -i /share/newer.deb
	dpkg -P cairn-web cairn cairn-img libcairn-dev cairn-doc
	is_gone
}

vm_pid() { cairn dominfo "$1" --format json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1; }
daemon_pid() { systemctl show --property=MainPID --value cairnd.service; }
state_of() { systemctl is-active "$1" || :; }
until_is() { # WANTED COMMAND...
	wanted=$1
	shift
	for _ in $(seq 6000); do
		[ "$("$@")" != "$wanted" ] || return 0
		sleep 0.1
	done
	return 1
}
until_logged() { # PATTERN MATCH...: journald writes an entry a moment after it is sent
	pattern=$1
	shift
	for _ in $(seq 6000); do
		! journalctl --output=cat "$@" | grep -e "$pattern" || return 0
		sleep 0.1
	done
	return 1
}
define() { # NAME KERNEL CMDLINE
	printf '{"name": "%s", "memory": "64M", "boot": {"kernel": "/root/%s", "cmdline": "%s"}}' "$1" "$2" "$3" >"/root/$1.json"
	cairn define "/root/$1.json"
}

# A unit for each VM: start, status, stop, a crash, and autostart.
units() {
	define web1 idle.elf ""
	define crash interp.elf "crash triple"
	systemctl start cairn-vm@web1
	[ "$(cairn domstate web1)" = running ]
	systemctl status cairn-vm@web1 | grep 'Status: "running'
	cairn suspend web1
	until_is 'paused (user)' systemctl show --property=StatusText --value cairn-vm@web1
	cairn resume web1
	systemctl stop cairn-vm@web1
	[ "$(cairn domstate web1)" = "shut off" ]
	[ "$(state_of cairn-vm@web1)" = inactive ]
	systemctl start cairn-vm@crash || :
	until_is failed state_of cairn-vm@crash
	[ "$(systemctl show --property=ExecMainStatus --value cairn-vm@crash)" = 11 ]
	until_logged "'crash' has crashed" _SYSTEMD_UNIT=cairn-vm@crash.service CAIRN_VM=crash
	if systemctl start cairn-vm@nothing; then return 1; fi
	[ "$(state_of cairn-vm@nothing)" = failed ]
	systemctl enable cairn-vm@web1
	[ -L /etc/systemd/system/multi-user.target.wants/cairn-vm@web1.service ]
	systemctl start cairn-vm@web1
	cairn destroy web1
	until_is inactive state_of cairn-vm@web1
	systemctl start cairn-vm@web1
}

page() { bash -c 'exec 3<>/dev/tcp/127.0.0.1/9178 && printf "GET / HTTP/1.0\\r\\nHost: localhost:9178\\r\\n\\r\\n" >&3 && head -n 1 <&3'; }

# Log in at the page: USER PASSWORD. Print the first line of the answer.
log_in() {
	bash -c 'b=$(printf "%s\n%s" "$1" "$2"); exec 3<>/dev/tcp/127.0.0.1/9178 && printf "POST /login HTTP/1.1\r\nHost: localhost:9178\r\nOrigin: http://localhost:9178\r\nContent-Length: ${#b}\r\n\r\n%s" "$b" >&3 && head -n 1 <&3' bash "$1" "$2"
}

# A connection starts the page's service, which checks passwords and starts a process with the user's id.
web_unit() {
	dpkg -i /share/cairn-web.deb
	[ "$(state_of cairn-web.socket)" = inactive ]
	systemctl enable --now cairn-web.socket
	[ "$(state_of cairn-web.service)" = inactive ]
	page | grep '200 OK'
	[ "$(state_of cairn-web.service)" = active ]
	systemctl start systemd-user-sessions.service # as a boot does: until then, /run/nologin refuses logins
	useradd tester
	echo tester:secret | chpasswd
	log_in tester wrong | grep '403 Forbidden'
	log_in tester secret | grep '200 OK'
	id=$(id -u tester)
	grep "^Uid:[[:space:]]$id[[:space:]]$id[[:space:]]$id[[:space:]]$id\$" $(grep -l cairn-delegate /proc/[0-9]*/comm | sed 's,comm$,status,')
	systemctl stop cairn-web.service
	if grep -q cairn-delegate /proc/[0-9]*/comm; then return 1; fi
	page | grep '200 OK'
	systemctl stop cairn-web.service
	dpkg -P cairn-web
	userdel tester
}

under_systemd() {
	dpkg -i /share/cairn.deb
	[ "$(state_of cairnd.service)" = active ]
	[ "$(state_of cairnd.socket)" = active ]
	[ "$(state_of cairn-guests.service)" = active ]
	[ "$(stat -c '%a %U' /var/lib/cairn)" = "700 root" ]
	units
	web_unit

	# The VM goes on over an upgrade, and a new daemon adopts it.
	vm=$(vm_pid web1) daemon=$(daemon_pid)
	dpkg -i /share/newer.deb
	[ "$(state_of cairnd.service)" = active ]
	[ "$(daemon_pid)" != "$daemon" ]
	[ "$(cairn domstate web1)" = running ]
	[ "$(vm_pid web1)" = "$vm" ]
	[ "$(state_of cairn-vm@web1)" = active ]
	until_logged "VM 'web1' adopted" _SYSTEMD_UNIT=cairnd.service CAIRN_VM=web1
	until_is 'running (booted)' systemctl show --property=StatusText --value cairn-vm@web1

	# A removal shuts the guests of units down, and leaves a VM running whose definition says so. The state folder
	# stays, and a purge keeps it while VMs are defined.
	define stays idle.elf ""
	cairn start stays
	stays=$(vm_pid stays)
	dpkg -r cairn >/tmp/said
	[ ! -e "/proc/$vm/exe" ]
	grep "VMs keep running without a daemon. Their processes: $stays " /tmp/said
	kill "$stays"
	[ "$(state_of cairnd.service)" != active ]
	dpkg -P cairn >/tmp/said
	grep 'VMs are still defined' /tmp/said
	[ -e /var/lib/cairn/vms/web1/definition.json ]
	dpkg -i /share/newer.deb
	[ "$(cairn domstate web1)" = "shut off" ]
	cairn undefine web1 crash stays
	systemctl disable cairn-vm@web1
	dpkg -P cairn
	[ ! -e /var/lib/cairn ]
	is_gone
}

case $1 in
chroot) in_chroot ;;
systemd) under_systemd ;;
esac
echo ok
