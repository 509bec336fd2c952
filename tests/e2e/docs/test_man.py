"""The examples of the manual pages work: each line between .EX and .EE runs with status 0 and without an error message,
and has the effect that the page promises."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import agentlib
import guestlib
import pytest

from conftest import BUILD, FAKE_VM, ROOT, Daemon

MAN = Path(ROOT, "docs", "man")
PLUGIN = os.path.join(BUILD, "nbdkit-cairn-plugin.so")

# Shell functions. A VM's definition is NAME.json, its disk NAME.qcow2.
PRELUDE = r"""
image() { cairn-img create -q -f qcow2 "$1.qcow2" 64M; }
definition() { printf '%s\n' "$DEFINITION" | sed "s/NAME/$1/g" >"$1.json"; image "$1"; }
defined() { definition "$1"; cairn define "$1.json"; }
running() { defined "$1"; cairn start "$1"; }
listens() { until cairn dominfo "$1" --format json | grep -q '"idle": *true'; do :; done; }  # to the power button
days() { running web1; for day in mon tue; do cairn snapshot-create-as web1 $day --disk-only; done; }
snapshot() { running web1; cairn snapshot-create-as web1 before-upgrade; }
is() { [ "$(cairn domstate "$1")" = "$2" ]; }
shows() { grep -q -e "$1" out || { echo "'$1' is not in the output"; return 1; }; }
lacks() { text=$1; shift; "$@" >list; if grep -e "$text" list; then return 1; fi; }
fails() { if "$@"; then return 1; fi; }
netfile() { printf '{"name":"%s","ipv4":{"address":"192.168.122.1","prefix":24}}' "$1" | sed 's/}}/,"dhcp":{"ranges":[{"start":"192.168.122.100","end":"192.168.122.200"}]}}}/' >"$1.json"; }
network() { netfile "$1"; cairn net-define "$1.json"; }
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override "$@"; }  # opens pytest's folders
asks() { cairn grant operator web1 --user nobody; cairn approval-rule web1 --acts destroy; nobody cairn destroy web1 2>asked || [ $? = 8 ]; }
keys() { while sleep 0.2; do echo q; done; }  # the guest powers off
"""

# Each example of cairn.1, then shell lines: "given" prepares, "then" checks the effect, and "how" runs the example,
# which is "{}" there. Its output is in the file `out`.
CAIRN = r"""
cairn create web1.json
    given: definition web1
    then: cairn dominfo web1 | grep "Persistent: *no"; cairn destroy web1; while cairn domstate web1; do :; done
cairn define web1.json
    given: definition web1
    then: shows "'web1' defined"; is web1 'shut off'
cairn validate web1.json
    given: definition web1
    then: fails cairn domstate web1
cairn dumpjson web1 > web1.json
    given: defined web1; rm web1.json
    then: cairn validate web1.json
cairn dumpxml web1 > web1.xml
    given: defined web1
    then: grep '<name>web1</name>' web1.xml; cairn define web1.xml
cairn edit web1 --xml
    given: defined web1; export EDITOR="sed -i 's,<vcpu.*,<vcpu>3</vcpu>,'"
    then: cairn dominfo web1 | grep 'CPU(s): *3'
cairn domrename web1 web-old
    given: defined web1
    then: is web-old 'shut off'; fails cairn domstate web1
cairn desc web1 "shop, production"
    given: defined web1
    then: cairn desc web1 | grep -x 'shop, production'
cairn setvcpus web1 4
    given: defined web1
    then: cairn dominfo web1 | grep 'CPU(s): *4'
cairn setvcpus web1 8 --maximum --config
    given: defined web1
    then: cairn vcpucount web1 --maximum --config | grep -x 8; cairn dominfo web1 | grep 'CPU(s): *1'
cairn setmem web1 2G
    given: defined web1
    then: cairn dominfo web1 | grep 'memory: *2097152 KiB'
cairn setmaxmem web1 4G
    given: defined web1
    then: cairn dominfo web1 | grep 'Max memory: *4194304 KiB'
cairn set-lifecycle-action web1 crash restart
    given: defined web1
    then: cairn dumpjson web1 | grep '"on_crash": *"restart"'
cairn attach-disk web1 data.qcow2 vdb --subdriver qcow2
    given: defined web1; cairn-img create -q -f qcow2 data.qcow2 1M
    then: cairn domblklist web1 | grep 'vdb .*data.qcow2'
cairn attach-disk web1 data.qcow2 vdb --subdriver qcow2 --persistent
    given: defined web1; cairn-img create -q -f qcow2 data.qcow2 1M; cairn start web1
    then: cairn domblklist web1 | grep 'vdb .*data.qcow2'; cairn domblklist web1 --inactive | grep 'vdb .*data.qcow2'
cairn attach-disk web1 debian.iso sda --type cdrom --config
    given: defined web1; truncate -s 1M debian.iso
    then: cairn domblklist web1 | grep 'sda .*debian.iso'
cairn detach-disk web1 vdb
    given: defined web1; cairn-img create -q -f qcow2 data.qcow2 1M
    given: cairn attach-disk web1 data.qcow2 vdb --subdriver qcow2
    then: lacks '^ vdb ' cairn domblklist web1
cairn change-media web1 cd debian.iso
    given: defined web1; truncate -s 1M debian.iso old.iso; cairn attach-disk web1 old.iso cd --type cdrom
    then: cairn domblklist web1 | grep 'cd .*debian.iso'
cairn attach-interface web1 user --forward 2222:22
    given: defined web1
    then: cairn domiflist web1 | grep user
cairn attach-interface web1 network default --forward 2222:22
    given: defined web1; network default
    then: cairn domiflist web1 2>&1 | grep 'net0: tcp 127.0.0.1:2222'
cairn attach-interface web1 user --egress 'allow tcp 443 *.example.org'
    given: defined web1
    then: cairn dumpjson web1 | grep example.org
cairn detach-interface web1 user
    given: defined web1; cairn attach-interface web1 user
    then: lacks user cairn domiflist web1
cairn attach-device web1 disk.xml
    given: defined web1; truncate -s 1M data.raw
    given: echo "<disk type='file'><driver type='raw'/><source file='$PWD/data.raw'/><target dev='vdb'/></disk>" >disk.xml
    then: cairn domblklist web1 | grep 'vdb .*data.raw'
cairn detach-device web1 disk.xml
    given: defined web1; truncate -s 1M data.raw; cairn attach-disk web1 data.raw vdb
    given: echo "<disk type='file'><driver type='raw'/><source file='$PWD/data.raw'/><target dev='vdb'/></disk>" >disk.xml
    then: lacks '^ vdb ' cairn domblklist web1
cairn update-device web1 disk.xml --config
    given: defined web1; truncate -s 1M data.raw other.raw; cairn attach-disk web1 data.raw vdb
    given: echo "<disk type='file'><driver type='raw'/><source file='$PWD/other.raw'/><target dev='vdb'/></disk>" >disk.xml
    then: cairn domblklist web1 | grep 'vdb .*other.raw'
cairn undefine web1 --remove-all-storage --dry-run
    given: defined web1
    then: shows web1.qcow2; [ -e web1.qcow2 ]; is web1 'shut off'
cairn start web1 --dry-run
    given: defined web1
    then: shows 'Would start'; is web1 'shut off'
cairn start web1 --console
    given: defined web1
    then: shows idle; cairn wait web1 --for shutoff --timeout 45
    how: keys | {}
cairn metrics > cairn.prom
    given: running web1
    then: grep 'cairn_domain_state{domain="web1",cairn_domain_state="running"} 1' cairn.prom; tail -n 1 cairn.prom | grep -x '# EOF'
cairn start web1 --foreground
    given: defined web1
    then: is web1 'shut off'
    how: (until cairn domstate web1 | grep running; do :; done; keys | cairn console web1) >other 2>&1 & {}
cairn start 'web*' --parallel 4
    given: defined web1; defined web2; defined db
    then: is web1 running; is web2 running; is db 'shut off'
cairn shutdown web1 --then destroy --timeout 60 --wait
    given: running web1; listens web1
    then: is web1 'shut off'
cairn shutdown --all --at 23:30 --message "Maintenance."
    given: running web1
    then: is web1 running; cairn dominfo web1 | grep 23:30
cairn reboot web1 --in 10m
    given: running web1
    then: is web1 running; cairn dominfo web1 | grep -i reboot
cairn reset web1
    given: running web1
    then: is web1 running
cairn suspend web1
    given: running web1
    then: is web1 paused
cairn resume web1
    given: running web1; cairn suspend web1
    then: is web1 running
cairn destroy web1
    given: running web1
    then: is web1 'shut off'
cairn reclaim web1
    given: snapshot
    then: shows 'freed [0-9]* KiB'
cairn restart-process web1
    given: running web1
    then: is web1 running
cairn autostart web1
    given: defined web1
    then: cairn dominfo web1 | grep 'Autostart: *enable'
cairn schedule web1 start --on "Mon..Fri 07:30" --zone Europe/Berlin --missed once
    given: defined web1
    then: cairn schedule-list web1 | grep 'start *start *Mon..Fri 07:30'
cairn schedule web1 snapshot --on "Sat *-*-1..7 04:00" --name first-saturday
    given: defined web1
    then: cairn schedule-list web1 | grep first-saturday
cairn schedule web1 export --on "daily Europe/Berlin" --name nightly --to .
    given: defined web1
    then: cairn schedule-list web1 | grep 'nightly *export'
cairn schedule-list
    given: defined web1; cairn schedule web1 start --on daily
    then: shows 'web1 *start *start *daily'
cairn schedule-history web1
    given: defined web1
    then: shows Outcome
cairn schedule-pause web1 nightly
    given: defined web1; cairn schedule web1 start --on daily --name nightly
    then: cairn schedule-list web1 | grep paused
cairn schedule-resume web1 nightly
    given: defined web1; cairn schedule web1 start --on daily --name nightly; cairn schedule-pause web1 nightly
    then: lacks nightly.*paused cairn schedule-list web1
cairn schedule-remove web1 nightly
    given: defined web1; cairn schedule web1 start --on daily --name nightly
    then: lacks nightly cairn schedule-list web1
cairn run web1.json
    given: definition web1
    then: shows idle
    how: keys | {}
cairn run web1.json -- make test
    given: definition web1
    how: {} 2>said || grep 'needs "boot.initrd"' said
cairn run --kernel vmlinux --initrd initrd --memory 1G -- make test
    given: definition web1; echo x >vmlinux; echo x >initrd
    how: {} 2>said || grep -i 'kernel' said
cairn run --image python:3.12 -- python3 -c 'print(1)'
    how: CAIRN_VM=/bin/true CAIRN_KERNEL=/dev/null HTTPS_PROXY=http://127.0.0.1:1 {} 2>said || grep 'skopeo: .*127.0.0.1:1' said
cairn run --root ./rootfs -v .:/src -w /src -- make test
    given: echo x >vmlinux; mkdir rootfs
    how: CAIRN_KERNEL=vmlinux {} 2>said || grep -i 'kernel' said
cairn dump web1 web1.core
    given: running web1
    then: head -c 4 web1.core | grep ELF; is web1 running
cairn save web1 web1.state
    given: running web1
    then: [ -s web1.state ]; is web1 'shut off'
cairn restore web1.state
    given: running web1; cairn save web1 web1.state
    then: is web1 running
cairn save-image-dumpjson web1.state
    given: running web1; cairn save web1 web1.state
    how: {} | grep '"name": *"web1"'
cairn save-image-dumpxml web1.state
    given: running web1; cairn save web1 web1.state
    how: {} | grep '<name>web1</name>'
cairn save-image-define web1.state web1.json
    given: running web1; cairn save web1 web1.state; cairn undefine web1
    given: cairn save-image-dumpjson web1.state | sed 's/"vcpus"/"title":"moved","vcpus"/' >web1.json
    then: cairn restore web1.state; cairn dumpjson web1 | grep '"title": *"moved"'
cairn save-image-edit web1.state
    given: running web1; cairn save web1 web1.state; cairn undefine web1; export EDITOR="sed -i 's/\"vcpus\"/\"title\":\"moved\",&/'"
    then: cairn restore web1.state; cairn dumpjson web1 | grep '"title": *"moved"'
cairn managedsave web1
    given: running web1
    then: cairn list --all --with-managed-save --name | grep -x web1
cairn managedsave-remove web1
    given: running web1; cairn managedsave web1
    then: lacks web1 cairn list --all --with-managed-save --name
cairn export web1 web1.tar.zst
    given: defined web1
    then: [ -s web1.tar.zst ]
cairn export web1 mon.tar.zst --snapshotname mon
    given: days
    then: [ -s mon.tar.zst ]
cairn export web1 tue.tar.zst --snapshotname tue --since mon
    given: days
    then: [ -s tue.tar.zst ]
cairn import mon.tar.zst tue.tar.zst
    given: days; cairn export web1 mon.tar.zst --snapshotname mon
    given: cairn export web1 tue.tar.zst --snapshotname tue --since mon; cairn destroy web1; cairn domrename web1 old
    then: [ -e web1/0-vda.qcow2 ]
cairn import web1.tar.zst --name web2
    given: defined web1; cairn export web1 web1.tar.zst
    then: is web2 'shut off'; [ -d web2 ]
cairn clone web1 web2
    given: defined web1
    then: is web2 'shut off'
cairn clone golden --linked --count 3 web
    given: defined golden
    then: [ "$(cairn list --all --name | grep -c '^web')" = 3 ]
cairn clone web1 test --live
    given: running web1
    then: is test running; is web1 running
cairn group-clone web1 db1 --name-pattern 'try-%s'
    given: running web1; defined db1; cairn start db1
    then: is try-web1 running; is try-db1 running
cairn group-clone web1 db1 --ephemeral --cpus 0.5 --memory-max 512M --publish auto:22
    given: for vm in web1 db1; do defined $vm; cairn attach-interface $vm user; cairn start $vm; done
    then: shows "db1-clone: tcp 127.0.0.1:.* leads to port 22"; is web1-clone running
cairn group-clone web1 db1 --network shared
    given: running web1; defined db1; cairn start db1
    then: is web1-clone running; is db1-clone running
cairn promote try1
    given: running web1; cairn clone --live web1 try1
    then: is web1 running; is web1-old 'shut off'
cairn promote --undo web1
    given: running web1; cairn clone --live web1 try1; cairn promote try1; cairn start web1-old
    then: is web1 running; is try1 'shut off'
cairn clone web1 --live --ephemeral --cpus 0.5 --memory-max 512M --count 50 --name-pattern 'try-%02d'
    given: running web1
    then: test $(cairn list --transient --name | grep -c try-) = 50
cairn new web1 --image debian.qcow2 --size 20G --user debian --ssh-key id.pub --ssh-over-vsock
    given: truncate -s 8M d.raw; printf U\\252 | dd of=d.raw bs=1 seek=510 conv=notrunc 2>/dev/null
    given: qemu-img convert -f raw -O qcow2 d.raw debian.qcow2; echo ssh-ed25519 AAAA > id.pub
    then: is web1 running; [ -e web1-seed.img ]
cairn backup-begin web1
    given: running web1
    then: ls web1.qcow2.backup-*
cairn backup-begin web1 --pull --socket socks
    given: running web1
    then: [ -S socks/vda.sock ]; cairn domjobabort web1
cairn blockcopy web1 vda --dest moved.qcow2 --pivot
    given: running web1
    then: cairn domblklist web1 | grep moved.qcow2
cairn blockjob web1 vda --pivot
    given: running web1; cairn blockcopy web1 vda --dest copy.raw
    then: cairn domblklist web1 | grep copy.raw
cairn blockcommit web1 vda --pivot --delete
    given: running web1; cairn snapshot-create-as web1 s1 --disk-only --external
    then: cairn domblklist web1 | grep web1.qcow2; [ ! -e web1.s1 ]
cairn blockpull web2 vda
    given: defined web1; cairn clone web1 web2 --linked
    then: lacks backing cairn dumpjson web2
cairn template golden
    given: defined golden
    then: fails cairn start golden
cairn snapshot-create web1
    given: running web1
    then: [ "$(cairn snapshot-list web1 --name | grep -c .)" = 1 ]
cairn snapshot-create-as web1 before-upgrade --quiesce
    given: running web1; cairn wait web1 --for agent --timeout 45
    then: cairn snapshot-info web1 before-upgrade
cairn snapshot-create-as web1 monday --disk-only --external
    given: running web1
    then: cairn domblklist web1 | grep web1.monday
cairn group-snapshot --name before-upgrade web1 db1
    given: running web1; defined db1; cairn start db1
    then: cairn snapshot-info web1 before-upgrade; cairn snapshot-info db1 before-upgrade
cairn group-revert --name before-upgrade web1 db1
    given: running web1; defined db1; cairn start db1; cairn group-snapshot --name before-upgrade web1 db1
    then: is web1 running; is db1 running
cairn snapshot-list web1 --tree
    given: snapshot
    then: shows before-upgrade
cairn snapshot-info web1 before-upgrade
    given: snapshot
    then: shows 'Name: *before-upgrade'
cairn snapshot-dumpxml web1 before-upgrade
    given: snapshot
    then: shows '<name>before-upgrade</name>'
cairn snapshot-parent web1 before-upgrade
    given: running web1; cairn snapshot-create-as web1 s1; cairn snapshot-create-as web1 before-upgrade
    then: [ "$(cat out)" = s1 ]
cairn snapshot-current web1 --name
    given: snapshot
    then: [ "$(cat out)" = before-upgrade ]
cairn snapshot-diff web1 mon tue
    given: days
    then: grep -E '^ vda +0 B' out
cairn snapshot-diff web1 mon tue --extents
    given: days
    then: grep Start out
cairn snapshot-diff web1 mon tue --files
    given: days
    how: {} 2>notes
    then: grep 'vda: no ext2, ext3 or ext4' notes
cairn snapshot-revert web1 before-upgrade
    given: snapshot
    then: is web1 running
cairn snapshot-delete web1 before-upgrade
    given: snapshot
    then: lacks before-upgrade cairn snapshot-list web1 --name
cairn snapshot-rename web1 s1 before-upgrade
    given: running web1; cairn snapshot-create-as web1 s1
    then: cairn snapshot-list web1 --name | grep -x before-upgrade
cairn snapshot-tag web1 before-upgrade keep
    given: snapshot
    then: cairn snapshot-info web1 before-upgrade | grep keep
cairn snapshot-schedule web1 --every 1h --keep 24h:all,30d:daily
    given: defined web1
    then: cairn snapshot-schedule web1 | grep 1h
cairn pool-list --details
    given: mkdir srv; cairn pool-define-as images dir --target srv
    then: shows '^ images *active *yes *yes'
cairn pool-info images
    given: mkdir srv; cairn pool-define-as images dir --target srv
    then: shows '^Available: *[0-9.]* .iB'
cairn pool-define-as images dir --target /srv/images
    how: mkdir srv; cairn pool-define-as images dir --target srv
    then: cairn pool-list | grep images
cairn pool-undefine images
    given: mkdir srv; cairn pool-define-as images dir --target srv
    then: lacks images cairn pool-list
cairn vol-list images --details
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: shows 'web1.qcow2 *.*file *1.00 MiB'
cairn vol-info web1.qcow2 --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: shows '^Capacity: *1.00 MiB'
cairn vol-dumpxml web1.qcow2 --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: shows '<capacity unit=.bytes.>1048576<'
cairn vol-path web1.qcow2 --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: shows '/srv/web1.qcow2$'
cairn vol-download web1.qcow2 web1.copy --pool images --sparse
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: cmp srv/web1.qcow2 web1.copy
cairn vol-upload web1.qcow2 web1.copy --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M; head -c 70000 /dev/zero >web1.copy
    then: cmp -n 70000 srv/web1.qcow2 web1.copy
cairn vol-create-as images web2.qcow2 20G
    given: mkdir srv; cairn pool-define-as images dir --target srv
    then: cairn-img info srv/web2.qcow2 | grep '20 GiB'
cairn vol-create-as images web3.qcow2 20G --backing-vol web1.qcow2
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: cairn-img info srv/web3.qcow2 | grep web1.qcow2
cairn vol-clone web1.qcow2 copy.qcow2 --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: cairn-img compare srv/web1.qcow2 srv/copy.qcow2
cairn vol-delete web1.qcow2 --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: test ! -e srv/web1.qcow2
cairn vol-resize web1.qcow2 40G --pool images
    given: mkdir srv; cairn pool-define-as images dir --target srv; cairn vol-create-as images web1.qcow2 1M
    then: cairn-img info srv/web1.qcow2 | grep '40 GiB'
cairn image-list
    given: export XDG_CACHE_HOME=$PWD/cache; mkdir fs; cairn-root ./fs
    then: shows '/fs  *[0-9a-f]* *4.00 KiB *0.00 B .* no'
cairn image-remove --unused-for 30
    given: export XDG_CACHE_HOME=$PWD/cache; mkdir fs; cairn-root ./fs; touch -d '40 days ago' cache/cairn/roots/*/image.json
    then: shows '/fs removed'; lacks '/fs' cairn image-list
cairn net-list --all
    given: network default
    then: shows 'default *inactive *no *yes'
cairn net-info default
    given: network default
    then: shows 'Bridge: *virbr'
cairn net-start default
    given: network default
    then: cairn net-list | grep 'default *active'
cairn net-destroy default
    given: network default; cairn net-start default
    then: cairn net-list --all | grep 'default *inactive'
cairn net-autostart default
    given: network default
    then: cairn net-info default | grep 'Autostart: *yes'
cairn net-define lan.json
    given: network default; netfile lan
    then: cairn net-list --all | grep lan
cairn net-create lan.json
    given: netfile lan
    then: cairn net-list | grep 'lan *active *no *no'
cairn net-dumpjson default > lan.json
    given: network default
    then: cairn net-define lan.json
cairn net-dumpxml default > lan.xml
    given: network default
    then: grep '<name>default</name>' lan.xml; cairn net-define lan.xml
cairn net-update default add ip-dhcp-host web1.xml --live --config
    given: network default; cairn net-start default; echo "<host mac='52:54:00:12:34:57' ip='192.168.122.11'/>" >web1.xml
    then: cairn net-dumpjson default --inactive | grep 52:54:00:12:34:57; cairn net-dumpjson default | grep 52:54:00:12:34:57
cairn net-update default add ip-dhcp-host '{"mac": "52:54:00:12:34:56", "address": "192.168.122.10"}' --live --config
    given: network default; cairn net-start default
    then: cairn net-dumpjson default --inactive | grep 52:54:00:12:34:56; cairn net-dumpjson default | grep 52:54:00:12:34:56
cairn net-update default add user alice --live --config
    given: network default; cairn net-start default
    then: cairn net-dumpjson default | tr -d ' \n' | grep '"users":\[[0-9]'
cairn net-edit default
    given: network default; export EDITOR="sed -i s/192[.]168[.][0-9]*/192.168.99/"
    then: cairn net-dumpjson default --inactive | grep 192.168.99.1
cairn net-dhcp-leases default
    given: network default; cairn net-start default
    then: shows 'Expiry Time'
cairn net-undefine lan
    given: network lan
    then: lacks lan cairn net-list --all
cairn net-name 6f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11
    given: netfile lan; sed -i 's/{/{"uuid":"6f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11",/' lan.json; cairn net-define lan.json
    then: shows lan
cairn net-uuid default
    given: network default
    then: shows '^[0-9a-f]*-'
cairn jobs
    given: snapshot; cairn snapshot-create-as web1 s2 --no-wait
    then: shows job2
cairn domjobinfo web1
    given: running web1
    then: shows None
cairn domjobabort web1
    given: running web1; cairn backup-begin web1 --pull
    then: cairn domjobinfo web1 | grep None
cairn job-cancel job7
    given: running web1
    given: for i in 1 2 3 4 5 6; do cairn snapshot-create-as web1 s$i --disk-only; done
    given: cairn snapshot-create-as web1 s7 --rate 4096 --no-wait
    then: fails cairn snapshot-info web1 s7
cairn job-dismiss job7
    given: running web1
    given: for i in 1 2 3 4 5 6; do cairn snapshot-create-as web1 s$i --disk-only; done
    given: cairn snapshot-create-as web1 s7 --disk-only --no-wait
    given: until cairn jobs --format json | grep concluded; do :; done
    then: lacks job7 cairn jobs
cairn list --all
    given: running web1; defined db
    then: shows 'web1 *running'; shows 'db *shut off'
cairn list --name --can start
    given: running web1; defined db
    then: [ "$(cat out)" = db ]
cairn dominfo web1
    given: running web1
    then: shows 'Name: *web1'; shows 'State: *running'
cairn dominfo web1 --sandbox
    given: running web1
    then: shows 'Process: *[0-9]'; shows 'CapEff: '; shows 'Seccomp: '
cairn domuuid web1
    given: defined web1
    then: shows '^[0-9a-f]\{8\}-'
cairn domid web1
    given: running web1
    then: [ "$(cat out)" = 1 ]
cairn domname 1
    given: running web1
    then: [ "$(cat out)" = web1 ]
cairn domstate web1 --reason
    given: running web1
    then: [ "$(cat out)" = 'running (booted)' ]
cairn domblklist web1 --details
    given: defined web1
    then: shows 'file *disk *vda *.*web1.qcow2'
cairn domblkinfo web1
    given: defined web1
    then: shows 'vda .* 0 .*0 B'
cairn domblkinfo web1 --all --human
    given: defined web1
    then: shows '^ Target *Capacity *Allocation *Physical *Reads'
cairn domblkinfo web1 vda --human
    given: defined web1
    then: shows '^Capacity: *[0-9.]* [MG]iB$'
cairn domblkstat web1 vda
    given: running web1
    then: shows '^vda rd_req [0-9]'
cairn domiflist web1
    given: defined web1; cairn attach-interface web1 user
    then: shows 'net0 .*user'
cairn domifstat web1 net0
    given: defined web1; cairn attach-interface web1 user; cairn start web1
    then: shows 'net0 rx_bytes'
cairn domif-getlink web1 net0
    given: defined web1; cairn attach-interface web1 user; cairn start web1
    then: shows 'net0 up'
cairn domif-egress web1 net0 'allow tcp 443 *.example.org' deny
    given: defined web1; cairn attach-interface web1 user; cairn start web1
    then: cairn domif-egress web1 net0 | grep '^deny$'
cairn domif-setlink web1 net0 down
    given: defined web1; cairn attach-interface web1 user; cairn start web1
    then: cairn domif-getlink web1 net0 | grep down
cairn domiftune web1 net0 --live --config --inbound 1000,2000,512 --outbound-packets 5000
    given: defined web1; cairn attach-interface web1 user; cairn start web1
    then: cairn domiftune web1 net0 | grep 'inbound.peak *: 2000'; cairn domiftune web1 net0 --config | grep 'outbound.packets *: 5000'
cairn blockresize web1 vda 80M
    given: running web1
    then: shows "'vda' is resized"; cairn domstats web1 | grep 'capacity=83886080'
cairn blkdeviotune web1 vda --live --config --total-iops-sec 500 --total-bytes-sec 20M
    given: defined web1; cairn start web1
    then: cairn blkdeviotune web1 vda | grep 'total_iops_sec *: 500'; cairn blkdeviotune web1 vda --config | grep 'total_bytes_sec *: 20971520'
cairn blkdeviotune web1 vda --total-iops-sec 500 --total-iops-sec-max 2000 --total-iops-sec-max-length 10
    given: defined web1; cairn start web1
    then: cairn blkdeviotune web1 vda | grep 'total_iops_sec_max_length: 10'
cairn seed web1-seed.iso --hostname web1 --user admin
    given: defined web1
    then: shows 'Seed image web1-seed.iso created'
cairn attach-disk web1 web1-seed.iso vdb --mode readonly
    given: defined web1; cairn seed web1-seed.iso --hostname web1
    then: cairn domblklist web1 | grep web1-seed.iso
cairn forward-add web1 2222:22
    given: defined web1; cairn attach-interface web1 user
    then: shows 'web1: tcp 127.0.0.1:2222 leads to port 22'
cairn forward-add web1 auto:80
    given: defined web1; cairn attach-interface web1 user; cairn start web1
    then: shows 'leads to port 80'
cairn forward-add web2 [::]:8080:80
    given: defined web2; network default; cairn attach-interface web2 network default
    then: shows 'web2: tcp .::.:8080 leads to port 80'
cairn forward-remove web1 2222
    given: defined web1; cairn attach-interface web1 user --forward 2222:22
    then: lacks 2222 cairn forward-list web1
cairn forward-list web1
    given: defined web1; cairn attach-interface web1 user --forward 2222:22
    then: shows 'net0 *tcp *127.0.0.1:2222 *:22'
cairn domifaddr web1
    given: running web1; cairn wait web1 --for ip --timeout 45
    then: shows ipv4
cairn domifaddr web1 --source lease
    given: running web1
    then: shows 'MAC address'
cairn exec web1 -- uname -r
    given: running web1
    then: [ "$(cat out)" = "$(uname -r)" ]
cairn exec -t web1 -- sh
    given: definition web1; sed -i 's/{/{"vsock": true,/' web1.json; cairn define web1.json; cairn start web1
    how: echo tty | {}
    then: shows /dev/pts/
cairn exec-output job7
    given: definition web1; sed -i 's/{/{"vsock": true,/' web1.json; cairn define web1.json; cairn start web1; job=$(cairn exec --no-wait web1 -- echo done)
    given: until cairn jobs | grep concluded; do :; done
    how: $(echo {} | sed s/job7/$job/)
    then: shows done
cairn cp notes.txt web1:/root/
    given: running web1; echo notes >notes.txt; mkdir -p guest/root
    then: cmp notes.txt guest/root/notes.txt
cairn cp web1:/etc/hostname .
    given: running web1; mkdir -p guest/etc; echo web1 >guest/etc/hostname
    then: cmp hostname guest/etc/hostname
cairn guestinfo web1 --os
    given: running web1
    then: shows 'os.id *: debian'
cairn guestvcpus web1
    given: running web1
    then: shows 'online *: 0-2'; shows 'offlinable *: 1-3'
cairn guestvcpus web1 --cpulist 1 --disable
    given: running web1
    then: cairn guestvcpus web1 | grep 'online *: 0,2'
cairn domhostname web1
    given: running web1
    then: [ "$(cat out)" = web1 ]
cairn domfsinfo web1
    given: running web1
    then: shows '/ *vda1 *ext4 *vda1'
cairn domfstrim web1
    given: running web1
    then: [ ! -s out ]
cairn domfsfreeze web1
    given: running web1
    then: shows 'Froze 2 filesystem(s)'
cairn domfsthaw web1
    given: running web1
    then: shows 'Thawed 2 filesystem(s)'
cairn set-user-password web1 root - <secret
    given: running web1; echo word >secret
    then: shows 'Password set successfully for root in web1'
cairn domtime web1 --pretty
    given: running web1
    then: shows 'Time: 2023-11-14 22:13:20'
cairn qemu-agent-command web1 '{"execute": "guest-info"}'
    given: running web1
    then: shows '"version":"7.2"'
cairn domblkerror web1
    given: running web1
    then: shows 'No errors found'
cairn vcpuinfo web1 --pretty
    given: running web1
    then: shows '^VCPU: *0$'; shows '^CPU Affinity: *[0-9,-]* (out of'
cairn vcpucount web1 --live
    given: running web1
    then: shows '^1$'
cairn nodeinfo
    then: shows '^Memory size: *[0-9]* KiB$'
cairn nodecpustats --percent
    then: shows '^usage: *[0-9.]*%$'
cairn domstats web1 --block
    given: running web1
    then: shows block.0.name=vda; shows block.0.allocation=
cairn domstats web1 --block --backing
    given: running web1
    then: shows block.0.path=; lacks backingIndex cat out
cairn domdirtyrate-calc web1 --seconds 10
    given: running web1
    then: shows "Start to calculate domain's memory dirty rate"; cairn domstats web1 --dirtyrate | grep dirtyrate.calc_period=10
cairn trend web1 cpu wr-bytes --last 1d
    given: running web1
    then: shows '^cpu: '; shows '^wr-bytes: '
cairn advise
    given: running web1
    then: lacks web1: cat out
cairn advise web1 --snapshots --verbose
    given: running web1
    then: shows 'web1: idle lacks data'
cairn advise --apply
    given: running web1
    then: lacks web1: cat out
cairn threshold web1 cpu --above 90 --below 80 --for 5m
    given: defined web1
    then: cairn threshold-list web1 | grep 'web1 *cpu *cpu *90% *80% *5m'
cairn threshold web1 latency --above 50ms --then snapshot --name slow
    given: defined web1
    then: cairn threshold-list web1 | grep 'slow *latency *50ms *50ms *1m *snapshot'
cairn threshold-list
    given: defined web1; cairn threshold web1 net --above 100M
    then: shows 'web1 *net'
cairn threshold-remove web1 cpu
    given: defined web1; cairn threshold web1 cpu --above 90
    then: lacks cpu cairn threshold-list web1
cairn web-hook chat --url https://chat.example.org/hook --event crashed,threshold
    then: shows 'nothing shows again: whsec_'; cairn web-hook-list | grep 'chat *- *https://chat.example.org/hook *crashed,threshold *0'
cairn web-hook ci --vm web1 --url https://ci.example.org/vm --secret-file key
    given: defined web1; echo 0123456789abcdef01234567 >key
    then: cairn web-hook-list | grep 'ci *web1'
cairn web-hook-list
    given: cairn web-hook chat --url https://chat.example.org/hook
    then: shows 'chat *-'
cairn web-hook-remove chat
    given: cairn web-hook chat --url https://chat.example.org/hook
    then: lacks chat cairn web-hook-list
cairn web-hook-test chat
    given: cairn web-hook chat --url http://127.0.0.1:1/ --private
    how: {} 2>said || grep 'did not get the event' said
cairn trend web1 --last 1w --format svg > web1.svg
    given: running web1
    then: grep -q '^<svg' web1.svg
cairn trend web1 cpu memory --from 2h --step 1m --format csv
    given: running web1
    then: shows '^time,cpu,cpu-maximum,memory,memory-maximum'
cairn dommemstat web1
    given: running web1
    then: shows 'rss [0-9]'
cairn send-key web1 KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE
    given: definition web1; sed -i 's/{/{"screen": true,/' web1.json; cairn define web1.json; cairn start web1
    then: is web1 running
cairn inject-nmi web1
    given: running web1
    then: is web1 running
cairn vncdisplay web1
    given: definition web1; sed -i 's/{/{"screen": true, "vnc": true,/' web1.json; cairn define web1.json; cairn start web1
    then: shows /web1.vnc
cairn domdisplay web1
    given: definition web1; sed -i 's/{/{"screen": true, "vnc": true,/' web1.json; cairn define web1.json; cairn start web1
    then: shows '^vnc+unix:///.*/web1.vnc$'
cairn screenshot web1 web1.png
    given: definition web1; sed -i 's/{/{"screen": true,/' web1.json; cairn define web1.json; cairn start web1
    how: {} 2>said || grep 'the screen is off' said
    then: is web1 running
cairn top --sort memory
    given: running web1
    then: shows web1
cairn qmp-path web1
    given: running web1
    then: [ -S "$(cat out)" ]
cairn console web1
    given: running web1
    then: shows idle; cairn wait web1 --for shutoff --timeout 45
    how: keys | {}
cairn console web1 --no-input --until 'login:' --timeout 60
    given: running web1; cairn console web1 --no-input --until idle --timeout 45; echo login: | cairn console web1
    then: shows login:
cairn console web1 --no-history --until '# ' --timeout 10 < commands
    given: running web1; echo uptime >commands
    how: (until [ -e done ]; do printf '# ' | cairn console web1 --no-history >prompts; done) & {}; touch done; wait
    then: shows '# '
cairn log web1 --tail 20
    given: running web1; until cairn log web1 | grep 'running (booted)'; do :; done  # another process writes it
    then: shows 'running (booted)'
cairn vsock web1 5000
    given: definition web1; sed -i 's/{/{"vsock": true,/' web1.json; cairn define web1.json; cairn start web1
    how: {} 2>said || grep 'no driver for its vsock device' said
    then: is web1 running
cairn ssh root@web1 uptime
    given: definition web1; sed -i 's/{/{"vsock": true,/' web1.json; cairn define web1.json; cairn start web1
    how: {} 2>said || grep 'no driver for its vsock device' said
    then: is web1 running
cairn wait web1
    given: defined web1; (sleep 0.3; cairn start web1) &
    then: is web1 running; wait
cairn wait web1 --for ip --timeout 60
    given: running web1
cairn event web1 --event SHUTDOWN --timeout 60
    given: defined web1
    then: shows SHUTDOWN
    how: while :; do cairn start web1; cairn destroy web1; done >loop 2>&1 & loop=$!
    how: {}
    how: exec 2>>loop; kill $loop; wait $loop || :
cairn events --notify
    how: DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere {} 2>said || grep 'the desktop shows no messages' said
cairn events --timestamp
    given: running web1
    then: shows '^20[0-9-]* [0-9:.+]*: .*STOP'
    how: {} & listener=$!
    how: until grep -q STOP out; do cairn suspend web1; cairn resume web1; done >loop
    how: exec 2>>loop; kill $listener; wait $listener || :
cairn version
    then: shows cairn
cairn shell < setup.txt
    given: definition web1; echo 'define web1.json; start web1' >setup.txt
    then: is web1 running
cairn complete -- autostart --d
    then: shows disable
cairn help snapshot-revert
    then: shows 'snapshot-revert '
cairn help pool
    then: shows '^  pool-list '
cairn grant operator web1 --user alice
    given: defined web1
    then: cairn permissions | grep operator
cairn grant creator --group users
    then: cairn permissions | grep "creator *own"
cairn revoke web1 --user alice
    given: defined web1; cairn grant operator web1 --user nobody
    then: lacks operator cairn permissions
cairn permissions
    given: defined web1; cairn grant viewer web1 --user nobody
    then: shows 'nobody.*viewer\|viewer.*nobody'
cairn permissions-review --unused-for 90
    given: defined web1; cairn grant viewer web1 --user nobody
    then: lacks viewer cat out; cairn permissions-review | grep 'nobody.*viewer.*web1.*never'
cairn approval-rule web1 --acts destroy,undefine,snapshot-delete --expire 8h
    given: defined web1
    then: cairn approval-rule | grep 'web1.*destroy.*8h'
cairn request-permission operator web1 --reason "on call this week"
    given: defined web1; cairn grant viewer web1 --user nobody
    how: nobody {}
    then: shows 'Request 1 waits'; cairn requests 1 | grep 'on call'
cairn requests
    then: shows Expires
cairn approve 1 --reason "as agreed"
    given: running web1; asks
    then: cairn requests 1 --wait | grep 'as agreed'; is web1 'shut off'
cairn deny 1 --reason "after the backup"
    given: running web1; asks
    then: cairn requests 1 | grep 'State: *denied'; is web1 running
cairn quota --default --vms 10 --running 4 --memory 8G
    then: cairn quota --default | grep '10.* 4 .*8 GiB'
cairn quota --user alice --memory 32G --vcpus none --disk 100G --snapshots 50
    then: shows 'Quota of user .* set'
cairn quota
    given: cairn quota --user nobody --vms 3
    then: shows 'nobody.*0 of 3'
cairn audit --since 2h --vm web1
    given: running web1
    then: shows vm-start
cairn daemon-stop --save
    given: running web1
    then: shows saved
cairn web --listen 127.0.0.1:9178
    then: shows '^http://127.0.0.1:[0-9]*/#token='
    how: touch address; $(echo '{}' | sed 's/9178/0/') >address & until grep token address; do sleep 0.1; done; kill $!
cairn doctor
    then: shows kvm
    how: {} || [ $? = 1 ]
cairn cpu-models
    then: shows EPYC-Milan
"""

IMG = r"""
cairn-img create -f qcow2 disk.qcow2 20G
    then: [ -s disk.qcow2 ]
cairn-img create -f qcow2 -b debian.qcow2 -F qcow2 vm1.qcow2
    given: image debian
    then: cairn-img info vm1.qcow2 | grep debian.qcow2
cairn-img info --output json disk.qcow2
    given: image disk
    then: shows '"format": *"qcow2"'
cairn-img check -r leaks disk.qcow2
    given: image disk
    then: shows 'No errors'
cairn-img convert -p -f raw -O qcow2 disk.img disk.qcow2
    given: truncate -s 1M disk.img
    then: cairn-img compare disk.img disk.qcow2; shows '100.00/100%'
cairn-img dd -f qcow2 bs=1M skip=1 if=disk.qcow2 of=partition.img
    given: image disk
    then: [ $(stat -c %s partition.img) = 66060288 ]
cairn-img compare disk.img disk.qcow2
    given: truncate -s 64M disk.img; image disk
    then: shows identical
cairn-img map --output json disk.qcow2
    given: image disk
    then: shows '^\['
cairn-img resize disk.qcow2 +10G
    given: image disk
    then: cairn-img info disk.qcow2 | grep 10804527104
cairn-img measure -O qcow2 disk.img
    given: truncate -s 1M disk.img
    then: shows 'required size'
cairn-img rebase -b new.qcow2 -F qcow2 vm1.qcow2
    given: image old; image new; cairn-img create -q -f qcow2 -b old.qcow2 -F qcow2 vm1.qcow2
    then: cairn-img info vm1.qcow2 | grep new.qcow2
cairn-img commit -f qcow2 vm1.qcow2
    given: image old; cairn-img create -q -f qcow2 -b old.qcow2 -F qcow2 vm1.qcow2
cairn-img amend -o compat=1.1 disk.qcow2
    given: cairn-img create -q -f qcow2 -o compat=0.10 disk.qcow2 1M
    then: cairn-img info disk.qcow2 | grep 'compat: *1.1'
cairn-img trim --zeros disk.qcow2
    given: image disk
    then: cairn-img check disk.qcow2
cairn-img bench -c 10000 -d 32 disk.qcow2
    given: image disk
    then: shows 'completed in'
cairn-img snapshot -c before-upgrade disk.qcow2
    given: image disk
    then: cairn-img snapshot -l disk.qcow2 | grep before-upgrade
cairn-img bitmap --add disk.qcow2 monday
    given: image disk
    then: cairn-img info disk.qcow2 | grep monday
cairn-img bitmap --merge monday --disable disk.qcow2 week
    given: image disk; cairn-img bitmap --add disk.qcow2 monday; cairn-img bitmap --add disk.qcow2 week
cairn-img vmstate-info web1.state
    given: running web1; cairn save web1 web1.state
    then: shows 'virtio-blk *vda'
nbdkit -U - -r --filter=gzip file disk.img.gz --run 'cairn-img convert -f raw -O qcow2 "$uri" disk.qcow2'
    given: truncate -s 64M disk.img; gzip -k disk.img
    then: cairn-img compare disk.img disk.qcow2
cairn-img help convert
    then: shows 'convert '
"""

CAIRND = r"""
cairnd --state-dir /srv/cairn --max-memory 24G
    then: [ -d srv/vms ]
    how: export CAIRN_SOCKET=$PWD/own.sock; {} 2>own.log & own=$!
    how: until cairn list >list 2>&1; do kill -0 $own; done; kill $own; wait $own
cairnd --allow-bridge br0,br1
    then: [ -d own/vms ]
    how: export CAIRN_SOCKET=$PWD/own.sock; {} 2>own.log & own=$!
    how: until cairn list >list 2>&1; do kill -0 $own; done; kill $own; wait $own
"""

NBDKIT = r"""
nbdkit -U - nbdkit-cairn-plugin.so web1.qcow2 snapshot=before-upgrade --run 'qemu-img convert -f raw $nbd -O raw before.raw'
    given: running web1; cairn snapshot-create-as web1 before-upgrade
    then: [ "$(stat -c %s before.raw)" = 67108864 ]; is web1 running
nbdkit -U - nbdkit-cairn-plugin.so web1.qcow2 snapshot=mon --run 'qemu-img convert -f raw $nbd -O qcow2 mon.qcow2'
    given: days
    then: qemu-img check -q mon.qcow2
nbdkit -U - nbdkit-cairn-plugin.so web1.qcow2 snapshot=tue since=mon --run 'qemu-img convert -f raw $nbd -B mon.qcow2 -F qcow2 -O qcow2 tue.qcow2'
    given: days; qemu-img convert -U -l mon -O qcow2 web1.qcow2 mon.qcow2
    then: qemu-img info tue.qcow2 | grep 'backing file. mon.qcow2'
"""

PAGES = {"cairn.1": CAIRN, "cairn-img.1": IMG, "cairnd.1": CAIRND, "nbdkit-cairn-plugin.1": NBDKIT, "libcairn.3": "", "cairn-metrics.1": "", "cairn-web.1": ""}
# Examples with a guest agent, which the simulated VM has.
AGENT = ("--quiesce", "--for ip", "domifaddr")
# Examples that send it commands, which agentlib answers.
COMMANDS = ("exec", "cp ", "guestinfo", "guestvcpus", "domhostname", "domfs", "set-user-password", "domtime", "qemu-agent-command")
# Shell functions and verbs that start a VM, or read what KVM can do.
STARTS_VM = re.compile(r"\b(running|days|snapshot|asks)\b|cairn (create|start|run|new|console|event|wait|shell|cpu-models)\b")


def examples(page):
    """Return the example lines of a page as a reader sees them."""
    shown = "".join(re.findall(r"^\.EX\n(.*?)^\.EE$", (MAN / page).read_text(), re.M | re.S))
    return re.sub(r"\\\\\n *", "", shown.replace("\\-", "-")).splitlines()


def cases(page):
    """Return {example: {"given": shell lines, "then": ..., "how": ...}}."""
    found = {}
    for line in PAGES[page].strip().splitlines():
        if line[0] != " ":
            steps = found[line] = {"given": [], "then": [], "how": []}
        else:
            word, text = line.strip().split(": ", 1)
            steps[word].append(text)
    return found


@pytest.mark.parametrize("page", sorted(p.name for p in MAN.iterdir()))
def test_every_example_has_a_case(page):
    assert sorted(examples(page)) == sorted(cases(page))


def test_every_verb_has_an_example():
    verbs = json.loads(subprocess.check_output([os.path.join(BUILD, "cairn"), "help", "--format", "json"]))
    assert {shlex.split(e)[1] for e in cases("cairn.1")} == {v["name"] for v in verbs}


def run(daemon, guest, example, steps):
    definition = {"name": "NAME", "memory": "32M", "boot": {"kernel": guest},
                  "disks": [{"path": "NAME.qcow2", "format": "qcow2"}]}
    if daemon.vm_program:
        definition.update(guest_agent=True, boot={"kernel": guest, "cmdline": f"agent-after=0 agent-socket={daemon.tmp}/agent.sock "
                                                                       f'cairn-agent="{BUILD}/cairn-agent"'})
    script = [PRELUDE, "exec >given 2>&1", *steps["given"], "exec >out 2>err",
              *(how.replace("{}", example) for how in steps["how"] or ["{}"]),
              "exec >then 2>&1; set -x", *steps["then"]]
    env = {**daemon.env, "PATH": BUILD + ":" + os.environ["PATH"], "DEFINITION": json.dumps(definition)}
    r = subprocess.run(["sh", "-e"], input="\n".join(script), cwd=daemon.tmp, text=True, timeout=50, env=env)
    files = [daemon.tmp / name for name in ("given", "out", "err", "then")]
    said = "".join(f"--- {f.name}\n{f.read_text()}" for f in files if f.exists())
    assert r.returncode == 0 and not (daemon.tmp / "err").read_text(), said


def networks(tmp_path):
    """Return the environment of a daemon with a stand-in for cairn-net that changes nothing on this host."""
    folder = tmp_path / "libexec"
    folder.mkdir()
    shutil.copy(os.path.join(ROOT, "tests/helpers/fake_net.py"), folder / "cairn-net")
    for verb in ("up", "down"):
        (folder / f"{verb}.json").write_text('{"return": {"bridge": "virbr0", "notes": []}}')
    return {"CAIRN_LIBEXEC": str(folder)}


@pytest.mark.parametrize("page,example", [(p, e) for p in PAGES for e in examples(p)])
def test_example_works(request, guest, tmp_path, page, example):
    steps = cases(page)[example]
    if example.startswith("nbdkit") and not (shutil.which("nbdkit") and ("cairn-plugin" not in example or os.path.exists(PLUGIN))):
        pytest.skip("nbdkit or its plugin is missing")
    if os.geteuid() and any(re.search(r"\b(asks|nobody)\b", line) for part in steps.values() for line in part):
        pytest.skip("needs root, to act for another user")
    if example.startswith("cairn reclaim") and not guestlib.has_userfaultfd():
        pytest.skip("memory is reclaimed only with userfaultfd")
    # VMs and files that the page assumes to exist; and no daemon here may use the host's folders.
    for theirs, ours in (("user alice", "user nobody"), ("/srv/cairn", "srv"),
                         (" nbdkit-cairn-plugin.so", " " + shlex.quote(PLUGIN))):
        example = example.replace(theirs, ours)
    if page == "cairnd.1" and "--state-dir" not in example:
        example += " --state-dir own"
    commands = example.startswith(tuple("cairn " + c for c in COMMANDS))
    fake = commands or any(a in example for a in AGENT)
    if not fake and STARTS_VM.search("\n".join([example, *steps["given"], *steps["how"]])):
        request.getfixturevalue("kvm")
    daemon = Daemon(tmp_path, vm_program=FAKE_VM if fake else None,
                    env=networks(tmp_path) if example.startswith("cairn net-") else None)
    agent = agentlib.Agent(tmp_path / "agent.sock", tmp_path / "guest") if commands else None
    (tmp_path / "guest").mkdir()
    try:
        run(daemon, guest("idle.elf"), example, steps)
        if "daemon-stop" in example:
            assert daemon.proc.wait(50) == 0
            daemon.start()
            assert daemon.cairn("list", "--all", "--with-managed-save", "--name").stdout.split() == ["web1"]
    finally:
        daemon.close()
        if agent:
            agent.close()
