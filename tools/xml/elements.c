/* The table, in the order of libvirt's documentation; the first matching row counts. An attribute has a row of its own
 * if it is treated differently from its element. */
#include "tools/xml/elements.h"
#include "tools/xml/reading.h"

#include <errno.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <string.h>

#define PATH_LENGTH_MAX 160

#define SMBIOS_FIXED "Cairn's SMBIOS tables have no such texts"
#define PINNED "Cairn leaves the placement of single threads to the host's scheduler"
#define IMAGE_RIGHTS "Cairn opens an image with the rights of the user who defined the VM"
#define IMAGE_IO "the block engine chooses how it reads and writes an image"

const struct element elements[] = {
	{ "", ELEMENT_READ, "type id",
		"type: kvm; qemu also runs on KVM, with a warning; others are refused" },
	{ "name", ELEMENT_READ, "", "name" },
	{ "uuid", ELEMENT_READ, "", "uuid" },
	{ "genid", ELEMENT_NONE, "", "Cairn generates each VM's generation id" },
	{ "title", ELEMENT_READ, "", "title" },
	{ "description", ELEMENT_READ, "", "description; its lines are joined" },
	{ "metadata", ELEMENT_READ, "",
		"elements in the namespace urn:cairn:definition:1; others are dropped with a warning" },
	{ "memory", ELEMENT_READ, "unit",
		"memory; rounded up to KiB, and then to whole pages with a warning" },
	{ "memory/@dumpCore", ELEMENT_NONE, "", "a dump always includes all guest memory" },
	{ "currentMemory", ELEMENT_READ, "unit",
		"current_memory, if there is a balloon; else a warning if it differs from memory" },
	{ "maxMemory", ELEMENT_NONE, "", "memory hot-plug is not supported" },
	{ "memoryBacking", ELEMENT_READ, "", NULL },
	{ "memoryBacking/hugepages", ELEMENT_READ, "", "hugepages" },
	{ "memoryBacking/hugepages/page", ELEMENT_NONE, "", "huge pages have the host's default size" },
	{ "memoryBacking/*", ELEMENT_NONE, "", "memory is one private memfd" },
	{ "memtune", ELEMENT_READ, "", NULL },
	{ "memtune/hard_limit", ELEMENT_READ, "unit", "memory_max, rounded up to whole pages; 9007199254740988 KiB and more is no limit" },
	{ "memtune/*", ELEMENT_NONE, "", "Cairn has one limit of a VM's memory, memory_max" },
	{ "numatune", ELEMENT_NONE, "", "Cairn does not bind a VM's memory to NUMA nodes" },
	{ "blkiotune", ELEMENT_NONE, "", "Cairn sets no I/O weights" },
	{ "vcpu", ELEMENT_READ, "placement current", "max_vcpus; vcpus: current, or all without current" },
	{ "vcpu/@cpuset", ELEMENT_NONE, "", PINNED },
	{ "vcpus", ELEMENT_NONE, "", "the first vCPUs are present from the start, and all but the first come and go" },
	{ "iothreads", ELEMENT_NONE, "", "each disk has a thread of its own" },
	{ "iothreadids", ELEMENT_NONE, "", "each disk has a thread of its own" },
	{ "defaultiothread", ELEMENT_NONE, "", "each disk has a thread of its own" },
	{ "cputune", ELEMENT_READ, "", NULL },
	{ "cputune/shares", ELEMENT_READ, "", "cpu_shares" },
	{ "cputune/global_quota", ELEMENT_READ, "", "cpu_quota, in percent of global_period; rounded up" },
	{ "cputune/global_period", ELEMENT_READ, "", "see global_quota; 100000 by default" },
	{ "cputune/quota", ELEMENT_READ, "",
		"cpu_quota, in percent of period, for all vCPUs together; without effect beside global_quota" },
	{ "cputune/period", ELEMENT_READ, "", "see quota; 100000 by default" },
	{ "cputune/*", ELEMENT_NONE, "", PINNED },
	{ "resource", ELEMENT_NONE, "", "a VM's control group is the daemon's matter; libvirt's scope for each VM is systemd_scope, in metadata" },
	{ "sysinfo", ELEMENT_READ, "type", "sysinfo, with type smbios and os/smbios in mode sysinfo" },
	{ "sysinfo/system", ELEMENT_READ, "", NULL },
	{ "sysinfo/system/entry", ELEMENT_REPEATED, "name",
		"sysinfo: manufacturer, product, version, serial, sku, family; the UUID is the domain's" },
	{ "sysinfo/bios", ELEMENT_READ, "", NULL },
	{ "sysinfo/bios/entry", ELEMENT_REPEATED, "name", "sysinfo.bios: vendor, version, date; release causes a warning" },
	{ "sysinfo/baseBoard", ELEMENT_READ, "", NULL },
	{ "sysinfo/baseBoard/entry", ELEMENT_REPEATED, "name",
		"sysinfo.board: manufacturer, product, version, serial, asset, location" },
	{ "sysinfo/chassis", ELEMENT_READ, "", NULL },
	{ "sysinfo/chassis/entry", ELEMENT_REPEATED, "name", "sysinfo.chassis: manufacturer, version, serial, asset, sku" },
	{ "sysinfo/oemStrings", ELEMENT_READ, "", NULL },
	{ "sysinfo/oemStrings/entry", ELEMENT_REPEATED, "", "sysinfo.oem_strings" },
	{ "sysinfo/*", ELEMENT_NONE, "", SMBIOS_FIXED },
	{ "bootloader", ELEMENT_REFUSED, "", "is for Xen; give <os> with <type>hvm</type>" },
	{ "bootloader_args", ELEMENT_REFUSED, "", "is for Xen; give <os> with <type>hvm</type>" },
	{ "os", ELEMENT_READ, "firmware", "firmware: bios is boot.firmware, as is an <os> without <kernel>; efi is uefi" },
	{ "os/type", ELEMENT_READ, "arch machine",
		"only hvm; arch: x86_64, or i686 with a warning; machine: cairn-N is machine N, others cause a warning" },
	{ "os/firmware", ELEMENT_READ, "", NULL },
	{ "os/firmware/feature", ELEMENT_REPEATED, "enabled name", "enabled yes (Secure Boot) is refused" },
	{ "os/loader", ELEMENT_READ, "type readonly secure stateless format",
		"boot.loader; type pflash is boot.firmware uefi; secure is refused; has no effect beside <kernel>" },
	{ "os/nvram", ELEMENT_READ, "template templateFormat format",
		"boot.nvram_template: the file if it exists, or else the template; the variables are in the VM's folder" },
	{ "os/bios", ELEMENT_READ, "useserial", "none: a BIOS always uses the serial port" },
	{ "os/bios/@rebootTimeout", ELEMENT_NONE, "", "SeaBIOS tries again after a minute" },
	{ "os/smbios", ELEMENT_READ, "mode", "mode sysinfo: <sysinfo> has an effect; others cause a warning" },
	{ "os/boot", ELEMENT_REPEATED, "dev",
		"boot_order of the first disk, cdrom drive or interface, for hd, cdrom and network; fd causes a warning" },
	{ "os/bootmenu", ELEMENT_READ, "enable timeout", "boot.menu and boot.menu_timeout; has no effect beside <kernel>" },
	{ "os/kernel", ELEMENT_READ, "", "boot.kernel; without it, a BIOS boots from a disk" },
	{ "os/initrd", ELEMENT_READ, "", "boot.initrd" },
	{ "os/cmdline", ELEMENT_READ, "", "boot.cmdline" },
	{ "os/dtb", ELEMENT_NONE, "", "the guest has ACPI tables" },
	{ "os/acpi", ELEMENT_NONE, "", "the guest's ACPI tables are Cairn's" },
	{ "idmap", ELEMENT_REFUSED, "", "is for containers; a VM uses no host user ids" },
	{ "features", ELEMENT_READ, "", NULL },
	{ "features/acpi", ELEMENT_READ, "", "none: every VM has it" },
	{ "features/apic", ELEMENT_READ, "", "none: every VM has it" },
	{ "features/apic/@eoi", ELEMENT_NONE, "", "KVM chooses it" },
	{ "features/pae", ELEMENT_READ, "", "none: every VM has it" },
	{ "features/*", ELEMENT_OPTIONAL, "", "the guest has the features that KVM offers" },
	{ "cpu", ELEMENT_READ, "mode match check migratable",
		"mode: custom with a model that Cairn lacks causes a warning, and the guest sees the host's processor" },
	{ "cpu/model", ELEMENT_READ, "fallback", "cpu, if Cairn has a model of this name" },
	{ "cpu/feature", ELEMENT_REPEATED, "policy name",
		"cpu: +name for require and force, -name for disable and forbid; without a model of Cairn none" },
	{ "cpu/topology", ELEMENT_READ, "sockets dies clusters cores threads",
		"topology; one die and one cluster" },
	{ "cpu/*", ELEMENT_NONE, "", "a definition chooses the processor by model, features and topology only" },
	{ "clock", ELEMENT_READ, "offset adjustment basis timezone start",
		"clock: utc or localtime; variable if adjustment is 0; others are refused" },
	{ "clock/timer", ELEMENT_REPEATED, "name present",
		"none: every VM has rtc, pit, tsc and kvmclock; other settings cause a warning" },
	{ "clock/timer/@tickpolicy", ELEMENT_NONE, "", "KVM chooses how it delivers timer ticks" },
	{ "clock/timer/@track", ELEMENT_NONE, "", "KVM chooses how it delivers timer ticks" },
	{ "clock/timer/@mode", ELEMENT_NONE, "", "the guest uses the host's TSC" },
	{ "clock/timer/@frequency", ELEMENT_NONE, "", "the guest uses the host's TSC" },
	{ "clock/timer/catchup", ELEMENT_NONE, "", "KVM chooses how it delivers timer ticks" },
	{ "on_poweroff", ELEMENT_READ, "", "on_poweroff; rename-restart is restart, with a warning" },
	{ "on_reboot", ELEMENT_READ, "", "on_reboot; rename-restart is restart, with a warning" },
	{ "on_crash", ELEMENT_READ, "",
		"on_crash; rename-restart is restart, with a warning" },
	{ "on_lockfailure", ELEMENT_NONE, "", "Cairn never opens an image that is in use" },
	{ "pm", ELEMENT_READ, "", NULL },
	{ "pm/*", ELEMENT_OPTIONAL, "", "the guest has no sleep states" },
	{ "perf", ELEMENT_NONE, "", "use perf on the host" },
	{ "seclabel", ELEMENT_NONE, "", "Cairn's own sandbox confines the VM process" },
	{ "keywrap", ELEMENT_REFUSED, "", "is for s390; this is x86_64" },
	{ "launchSecurity", ELEMENT_REFUSED, "",
		"encrypted guests are not supported; without encryption the host could read the guest's memory" },

	{ "devices", ELEMENT_READ, "", NULL },
	{ "devices/disk/alias", ELEMENT_READ, "name", "id, if the alias begins with ua-" },
	{ "devices/interface/alias", ELEMENT_READ, "name", "id, if the alias begins with ua-" },
	{ "devices/*/alias", ELEMENT_SILENT, "", NULL },
	{ "devices/interface/address", ELEMENT_READ, "type domain bus slot function multifunction",
		"slot, if it is on bus 0; unless the machine is cairn-N, a warning: Linux may give the interface another name" },
	{ "devices/*/address", ELEMENT_SILENT, "", NULL },
	{ "devices/emulator", ELEMENT_SILENT, "", NULL },
	{ "devices/disk", ELEMENT_REPEATED, "type device model snapshot",
		"disks, sorted by bus and target unless the machine is cairn-N; type: file or block; device: disk or cdrom" },
	{ "devices/disk/@rawio", ELEMENT_NONE, "", "disks accept no SCSI commands" },
	{ "devices/disk/@sgio", ELEMENT_NONE, "", "disks accept no SCSI commands" },
	{ "devices/disk/driver", ELEMENT_READ, "name type cache error_policy rerror_policy discard detect_zeroes queues queue_size",
		"format (without type: raw, with a warning), cache, errors, discard, detect_zeroes, queues, queue_size" },
	{ "devices/disk/driver/@*", ELEMENT_NONE, "", IMAGE_IO },
	{ "devices/disk/driver/*", ELEMENT_NONE, "", IMAGE_IO },
	{ "devices/disk/source", ELEMENT_READ, "file dev index", "path" },
	{ "devices/disk/source/@startupPolicy", ELEMENT_NONE, "", "every image must exist" },
	{ "devices/disk/source/encryption", ELEMENT_REFUSED, "",
		"encrypted images are not supported; decrypt the image with qemu-img convert" },
	{ "devices/disk/source/slices", ELEMENT_REFUSED, "",
		"a part of a file cannot be a disk; use a loop device" },
	{ "devices/disk/source/dataStore", ELEMENT_READ, "type", "data_file" },
	{ "devices/disk/source/dataStore/format", ELEMENT_READ, "type", NULL },
	{ "devices/disk/source/dataStore/source", ELEMENT_READ, "file dev", NULL },
	{ "devices/disk/source/seclabel", ELEMENT_NONE, "", IMAGE_RIGHTS },
	{ "devices/disk/source/reservations", ELEMENT_NONE, "", "disks accept no SCSI commands" },
	{ "devices/disk/backingStore", ELEMENT_READ, "type index", "backing" },
	{ "devices/disk/backingStore/format", ELEMENT_READ, "type", NULL },
	{ "devices/disk/backingStore/source", ELEMENT_READ, "file dev index", NULL },
	{ "devices/disk/backingStore/source/encryption", ELEMENT_REFUSED, "",
		"encrypted images are not supported; decrypt the image with qemu-img convert" },
	{ "devices/disk/backingStore/source/slices", ELEMENT_REFUSED, "",
		"a part of a file cannot be a disk; use a loop device" },
	{ "devices/disk/backingStore/source/seclabel", ELEMENT_NONE, "", IMAGE_RIGHTS },
	{ "devices/disk/backingStore/source/dataStore", ELEMENT_READ, "type", "backing.data_file" },
	{ "devices/disk/backingStore/source/dataStore/format", ELEMENT_READ, "type", NULL },
	{ "devices/disk/backingStore/source/dataStore/source", ELEMENT_READ, "file dev", NULL },
	{ "devices/disk/target", ELEMENT_READ, "dev bus",
		"dev: id; bus: virtio or scsi; fdc is refused; others become virtio with a warning" },
	{ "devices/disk/target/@*", ELEMENT_NONE, "", "the disk has no such property" },
	{ "devices/disk/serial", ELEMENT_READ, "", "serial" },
	{ "devices/disk/readonly", ELEMENT_READ, "", "readonly" },
	{ "devices/disk/boot", ELEMENT_READ, "order", "boot_order" },
	{ "devices/disk/boot/@loadparm", ELEMENT_NONE, "", "is for s390" },
	{ "devices/disk/blockio", ELEMENT_READ, "logical_block_size physical_block_size discard_granularity",
		"logical_block_size, physical_block_size" },
	{ "devices/disk/transient", ELEMENT_REFUSED, "",
		"transient disks are not supported; take a snapshot and revert to it" },
	{ "devices/disk/encryption", ELEMENT_REFUSED, "",
		"encrypted images are not supported; decrypt the image with qemu-img convert" },
	{ "devices/disk/shareable", ELEMENT_NONE, "", "only one VM may use a writable image" },
	{ "devices/disk/iotune", ELEMENT_READ, "", "limits; 0: none" },
	{ "devices/disk/iotune/total_bytes_sec", ELEMENT_READ, "", "bps" },
	{ "devices/disk/iotune/read_bytes_sec", ELEMENT_READ, "", "bps_rd" },
	{ "devices/disk/iotune/write_bytes_sec", ELEMENT_READ, "", "bps_wr" },
	{ "devices/disk/iotune/total_iops_sec", ELEMENT_READ, "", "iops" },
	{ "devices/disk/iotune/read_iops_sec", ELEMENT_READ, "", "iops_rd" },
	{ "devices/disk/iotune/write_iops_sec", ELEMENT_READ, "", "iops_wr" },
	{ "devices/disk/iotune/total_bytes_sec_max", ELEMENT_READ, "", "bps_max" },
	{ "devices/disk/iotune/read_bytes_sec_max", ELEMENT_READ, "", "bps_rd_max" },
	{ "devices/disk/iotune/write_bytes_sec_max", ELEMENT_READ, "", "bps_wr_max" },
	{ "devices/disk/iotune/total_iops_sec_max", ELEMENT_READ, "", "iops_max" },
	{ "devices/disk/iotune/read_iops_sec_max", ELEMENT_READ, "", "iops_rd_max" },
	{ "devices/disk/iotune/write_iops_sec_max", ELEMENT_READ, "", "iops_wr_max" },
	{ "devices/disk/iotune/size_iops_sec", ELEMENT_READ, "", "iops_size" },
	{ "devices/disk/iotune/total_bytes_sec_max_length", ELEMENT_READ, "", "bps_max_length" },
	{ "devices/disk/iotune/read_bytes_sec_max_length", ELEMENT_READ, "", "bps_rd_max_length" },
	{ "devices/disk/iotune/write_bytes_sec_max_length", ELEMENT_READ, "", "bps_wr_max_length" },
	{ "devices/disk/iotune/total_iops_sec_max_length", ELEMENT_READ, "", "iops_max_length" },
	{ "devices/disk/iotune/read_iops_sec_max_length", ELEMENT_READ, "", "iops_rd_max_length" },
	{ "devices/disk/iotune/write_iops_sec_max_length", ELEMENT_READ, "", "iops_wr_max_length" },
	{ "devices/disk/iotune/group_name", ELEMENT_NONE, "", "Cairn limits each disk alone" },
	{ "devices/disk/throttlefilters", ELEMENT_NONE, "", "Cairn limits each disk alone; use iotune" },
	{ "devices/disk/wwn", ELEMENT_READ, "", "wwn, of a disk with bus scsi; others cause a warning" },
	{ "devices/disk/vendor", ELEMENT_NONE, "", "a virtio disk only has a serial number" },
	{ "devices/disk/product", ELEMENT_NONE, "", "a virtio disk only has a serial number" },
	{ "devices/disk/geometry", ELEMENT_NONE, "", "a virtio disk has no cylinders" },
	{ "devices/disk/auth", ELEMENT_NONE, "", "a file needs no password" },
	{ "devices/disk/mirror", ELEMENT_SILENT, "", NULL },
	{ "devices/controller", ELEMENT_REPEATED, "type model", "none: Cairn adds the buses that its devices need. A SCSI controller of another model than virtio-scsi causes a warning" },
	{ "devices/controller/@*", ELEMENT_SILENT, "", NULL },
	{ "devices/controller/*", ELEMENT_SILENT, "", NULL },
	{ "devices/lease", ELEMENT_REFUSED, "",
		"lock managers are not supported; Cairn locks images itself" },
	{ "devices/filesystem", ELEMENT_REPEATED, "type accessmode model", "shares; type mount, others are refused" },
	{ "devices/filesystem/@*", ELEMENT_NONE, "", "files that the guest makes belong to the user who defined the share" },
	{ "devices/filesystem/driver", ELEMENT_READ, "type", "virtiofs; 9p, which libvirt takes without it, is refused" },
	{ "devices/filesystem/driver/@*", ELEMENT_NONE, "", "Cairn chooses the sizes of rings" },
	{ "devices/filesystem/driver/*", ELEMENT_NONE, "", "is for QEMU" },
	{ "devices/filesystem/source", ELEMENT_READ, "dir", "path" },
	{ "devices/filesystem/target", ELEMENT_READ, "dir", "tag" },
	{ "devices/filesystem/readonly", ELEMENT_READ, "", "readonly, which is false without it" },
	{ "devices/filesystem/binary", ELEMENT_NONE, "", "the folder is served by cairn-share" },
	{ "devices/filesystem/binary/*", ELEMENT_SILENT, "", NULL },
	{ "devices/filesystem/idmap", ELEMENT_REFUSED, "", "other owners of files are not supported" },
	{ "devices/filesystem/space_hard_limit", ELEMENT_NONE, "", "use a quota of the host's file system" },
	{ "devices/filesystem/space_soft_limit", ELEMENT_NONE, "", "use a quota of the host's file system" },
	{ "devices/hostdev", ELEMENT_REFUSED, "",
		"passing a host device to a guest is not supported" },
	{ "devices/redirdev", ELEMENT_NONE, "", "there is no USB" },
	{ "devices/redirfilter", ELEMENT_NONE, "", "there is no USB" },
	{ "devices/smartcard", ELEMENT_NONE, "", "there is no smart card reader" },
	{ "devices/interface", ELEMENT_REPEATED, "type",
		"interfaces; type: network, bridge or user, others are refused" },
	{ "devices/interface/@*", ELEMENT_NONE, "", "an interface has no such property here" },
	{ "devices/interface/mac", ELEMENT_READ, "address", "mac" },
	{ "devices/interface/mac/@*", ELEMENT_NONE, "", "Cairn accepts any address" },
	{ "devices/interface/source", ELEMENT_READ, "network bridge portid", "source" },
	{ "devices/interface/source/@portgroup", ELEMENT_REFUSED, "",
		"networks have no port groups, and the guest would be in another network; name a network for this group" },
	{ "devices/interface/source/@*", ELEMENT_NONE, "", "a network has no such property here" },
	{ "devices/interface/model", ELEMENT_READ, "type",
		"virtio; others become virtio with a warning" },
	{ "devices/interface/target", ELEMENT_READ, "dev",
		"none: Cairn names the tap; a name other than vnet… causes a warning" },
	{ "devices/interface/link", ELEMENT_READ, "state", "link" },
	{ "devices/interface/driver", ELEMENT_READ, "name queues", "vhost: true with name vhost, but not with type user; queues: at most 8, and one with type user" },
	{ "devices/interface/driver/@*", ELEMENT_NONE, "", "Cairn chooses the sizes of rings and the offloads" },
	{ "devices/interface/driver/*", ELEMENT_NONE, "", "the guest's driver and the host's tap agree on the offloads" },
	{ "devices/interface/bandwidth", ELEMENT_READ, "", "bandwidth" },
	{ "devices/interface/bandwidth/inbound", ELEMENT_READ, "average peak burst floor",
		"bandwidth.inbound: average, peak and burst; floor causes a warning" },
	{ "devices/interface/bandwidth/outbound", ELEMENT_READ, "average peak burst", "bandwidth.outbound" },
	{ "devices/interface/boot", ELEMENT_READ, "order", "boot_order" },
	{ "devices/interface/boot/@loadparm", ELEMENT_NONE, "", "is for s390" },
	{ "devices/interface/rom", ELEMENT_NONE, "", "boot_order gives all interfaces one ROM, iPXE" },
	{ "devices/interface/filterref", ELEMENT_READ, "filter", "filter: clean-traffic, with type network; others are refused" },
	{ "devices/interface/filterref/parameter", ELEMENT_REFUSED, "",
		"parameters of filters are not supported; give the guest a fixed host of the network (cairn net-update)" },
	{ "devices/interface/vlan", ELEMENT_REFUSED, "",
		"VLAN tags are not supported; use a bridge in that VLAN" },
	{ "devices/interface/virtualport", ELEMENT_REFUSED, "",
		"virtual ports (Open vSwitch, 802.1Qbg) are not supported; use a Linux bridge" },
	{ "devices/interface/port", ELEMENT_READ, "isolated", "isolated, with type network" },
	{ "devices/interface/ip", ELEMENT_REPEATED, "family address prefix",
		"with type user: network, from address and prefix; IPv6 causes a warning" },
	{ "devices/interface/ip/@*", ELEMENT_NONE, "", "the guest sets its own address" },
	{ "devices/interface/portForward", ELEMENT_REPEATED, "proto address dev",
		"with type user: forwards; address is 0.0.0.0 by default; dev is refused" },
	{ "devices/interface/portForward/range", ELEMENT_REPEATED, "start end to exclude",
		"port and to, one forward per port; exclude is refused" },
	{ "devices/interface/backend", ELEMENT_READ, "type",
		"none: Cairn uses its own process for type user" },
	{ "devices/interface/backend/@*", ELEMENT_NONE, "", "Cairn provides the host's end" },
	{ "devices/interface/*", ELEMENT_NONE, "", "an interface has no such property here" },
	{ "devices/serial", ELEMENT_REPEATED, "type",
		"none: every VM has one serial port; further ports and types other than pty cause a warning" },
	{ "devices/serial/target", ELEMENT_READ, "type port", NULL },
	{ "devices/serial/target/model", ELEMENT_SILENT, "", NULL },
	{ "devices/serial/log", ELEMENT_NONE, "", "the VM process keeps the last 64 KiB of console output" },
	{ "devices/serial/*", ELEMENT_SILENT, "", NULL },
	{ "devices/parallel", ELEMENT_NONE, "", "there is no parallel port" },
	{ "devices/console", ELEMENT_REPEATED, "type tty",
		"console.virtio, if the target's type is virtio; type serial is the serial port" },
	{ "devices/console/target", ELEMENT_READ, "type port", NULL },
	{ "devices/console/log", ELEMENT_NONE, "", "the VM process keeps the last 64 KiB of console output" },
	{ "devices/console/*", ELEMENT_SILENT, "", NULL },
	{ "devices/channel", ELEMENT_REPEATED, "type",
		"guest_agent, if the type is unix and the target org.qemu.guest_agent.0; others cause a warning" },
	{ "devices/channel/target", ELEMENT_READ, "type name state", NULL },
	{ "devices/channel/source", ELEMENT_SILENT, "", NULL },
	{ "devices/input", ELEMENT_REPEATED, "type bus", "tablet: of type tablet, with a screen; its bus becomes virtio. Others but those of bus ps2 cause a warning: a VM with a screen has a PS/2 keyboard and mouse" },
	{ "devices/tpm", ELEMENT_NONE, "", "there is no TPM" },
	{ "devices/graphics", ELEMENT_REPEATED, "type port autoport listen socket passwd",
		"vnc: path, or port and address; a port needs vnc.password_file. spice becomes vnc on a Unix socket. Other types, and a VM without a screen, cause a warning" },
	{ "devices/graphics/listen", ELEMENT_READ, "type address socket", NULL },
	{ "devices/graphics/*", ELEMENT_SILENT, "", NULL },
	{ "devices/sound", ELEMENT_NONE, "", "there is no sound" },
	{ "devices/audio", ELEMENT_SILENT, "", NULL },
	{ "devices/video", ELEMENT_REPEATED, "", "screen; without it, graphics give one" },
	{ "devices/video/model", ELEMENT_READ, "type", "screen, of model bochs whatever the type; none: no screen" },
	{ "devices/video/model/@*", ELEMENT_SILENT, "", NULL },
	{ "devices/video/model/*", ELEMENT_NONE, "", "the guest chooses the resolution" },
	{ "devices/video/*", ELEMENT_NONE, "", "the screen has no driver on the host" },
	{ "devices/hub", ELEMENT_NONE, "", "there is no USB" },
	{ "devices/watchdog", ELEMENT_REPEATED, "model action", "watchdog; itco causes a warning" },
	{ "devices/memballoon", ELEMENT_READ, "model",
		"balloon; a model other than none and virtio causes a warning" },
	{ "devices/memballoon/@*", ELEMENT_SILENT, "", NULL },
	{ "devices/memballoon/*", ELEMENT_SILENT, "", NULL },
	{ "devices/rng", ELEMENT_REPEATED, "model", "rng" },
	{ "devices/rng/backend", ELEMENT_READ, "model", "none: random numbers come from the host; egd causes a warning" },
	{ "devices/rng/*", ELEMENT_NONE, "", "Cairn does not limit the rate of random numbers" },
	{ "devices/nvram", ELEMENT_NONE, "", "is for pseries" },
	{ "devices/panic", ELEMENT_REPEATED, "model",
		"none: every VM has model isa; others cause a warning" },
	{ "devices/shmem", ELEMENT_REFUSED, "", "sharing memory between VMs is not supported" },
	{ "devices/memory", ELEMENT_REFUSED, "",
		"memory modules are not supported; give the total size in <memory>" },
	{ "devices/iommu", ELEMENT_NONE, "", "the guest has no IOMMU" },
	{ "devices/vsock", ELEMENT_READ, "model", "vsock" },
	{ "devices/vsock/cid", ELEMENT_READ, "auto address", "vsock.cid; without an address 3, since VMs may have the same" },
	{ "devices/crypto", ELEMENT_NONE, "", "there is no crypto device" },
	{ "devices/pstore", ELEMENT_NONE, "", "there is no pstore device" },
	{ NULL, ELEMENT_NONE, NULL, NULL },
};

/* ---- finding the table row of an element ---- */

/* Does the path match a row's? "*" stands for one name, and for an attribute only after "@". */
static bool path_fits(const char *row, const char *path)
{
	for (; *row; row++) {
		if (*row != '*') {
			if (*row != *path++)
				return false;
			continue;
		}
		if (!*path || *path == '@')
			return false;
		path += strcspn(path, "/");
	}
	return !*path;
}

static const struct element *element_find(const struct element *table, const char *path)
{
	for (const struct element *e = table; e->path; e++)
		if (path_fits(e->path, path))
			return e;
	return NULL;
}

/* Is the name in the list of words? */
static bool list_has(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (; *list; list += strspn(list, " ")) {
		size_t n = strcspn(list, " ");

		if (n == len && !strncmp(list, name, n))
			return true;
		list += n;
	}
	return false;
}

/* Join "devices" and "disk" to "devices/disk". A nested backingStore has the path of the outer one. */
static void path_join(char out[PATH_LENGTH_MAX], const char *path, const char *mark,
	const char *name)
{
	size_t len = strlen(path), n = strlen("backingStore");

	if (!strcmp(name, "backingStore") && len > n && !strcmp(path + len - n, name))
		name = mark = "";
	/* A truncated path matches no row. */
	snprintf(out, PATH_LENGTH_MAX, "%s%s%s%.80s", path, *path && *name ? "/" : "", mark, name);
}

/* ---- checking a document ---- */

static const char unknown[] = "has no effect: Cairn does not know it";

static bool element_is_off(struct _xmlNode *n)
{
	return node_attr_is(n, "state", "off") || node_attr_is(n, "enabled", "no") ||
	       node_attr_is(n, "enable", "no") || node_attr_is(n, "present", "no");
}

static int check_attribute(struct reading *r, struct _xmlNode *n, const char *path,
	const struct element *element, struct _xmlAttr *a)
{
	const char *name = (const char *)a->name;
	const struct element *row;
	char at[PATH_LENGTH_MAX];

	if (!a->ns && list_has(element->attrs, name))
		return 0;
	path_join(at, path, "@", name);
	row = a->ns ? NULL : element_find(r->table, at);
	if (row && row->action == ELEMENT_REFUSED)
		return reading_error(r, n, name, ERR_UNSUPPORTED, "%s", row->why);
	if (!row)
		reading_warn(r, n, name, "%s", unknown);
	else if (row->action != ELEMENT_SILENT)
		reading_warn_row(r, n, name, row);
	return 0;
}

/* Check an element that has a namespace. QEMU's elements are errors, extra.c reads Cairn's, and others cause a
 * warning. */
static int check_foreign(struct reading *r, struct _xmlNode *n, const char *path)
{
	const char *href = n->ns->href ? (const char *)n->ns->href : "";

	if (!strcmp(href, XML_NAMESPACE_QEMU))
		return reading_error(r, n, NULL, ERR_UNSUPPORTED,
			"is for QEMU, which Cairn does not use; take it out");
	if (strcmp(path, "metadata"))
		reading_warn(r, n, NULL, "has no effect: Cairn does not know the namespace %.100s", href);
	else if (strcmp(href, XML_NAMESPACE))
		reading_warn(r, n, NULL, "is not kept");
	return 0;
}

static int check_once(struct reading *r, struct _xmlNode *n)
{
	for (struct _xmlNode *p = n->prev; p; p = p->prev)
		if (p->type == XML_ELEMENT_NODE && !p->ns && !xmlStrcmp(p->name, n->name))
			return reading_error(r, n, NULL, ERR_INVALID,
				"is there twice; the first is in line %ld", xmlGetLineNo(p));
	return 0;
}

static int check_element(struct reading *r, struct _xmlNode *n, const char *path);

static int check_children(struct reading *r, struct _xmlNode *n, const char *path)
{
	char at[PATH_LENGTH_MAX];
	int ret = 0;

	for (struct _xmlNode *c = n->children; c && !ret; c = c->next) {
		if (c->type != XML_ELEMENT_NODE)
			continue;
		path_join(at, path, "", (const char *)c->name);
		ret = reading_continue(r, c->ns ? check_foreign(r, c, path) : check_element(r, c, at));
	}
	return ret;
}

static int check_element(struct reading *r, struct _xmlNode *n, const char *path)
{
	const struct element *row = element_find(r->table, path);

	if (!row) {
		reading_warn(r, n, NULL, "%s", unknown);
		return 0;
	}
	if (row->action == ELEMENT_REFUSED)
		return reading_error(r, n, NULL, ERR_UNSUPPORTED, "%s", row->why);
	if (row->action == ELEMENT_NONE || (row->action == ELEMENT_OPTIONAL && !element_is_off(n)))
		reading_warn_row(r, n, NULL, row);
	if (row->action != ELEMENT_READ && row->action != ELEMENT_REPEATED)
		return 0;
	if (row->action == ELEMENT_READ && check_once(r, n) < 0)
		return -EINVAL;
	for (struct _xmlAttr *a = n->properties; a; a = a->next)
		if (reading_continue(r, check_attribute(r, n, path, row, a)) < 0)
			return -EINVAL;
	return check_children(r, n, path);
}

int elements_check(struct reading *r, struct _xmlNode *root, const struct element *table)
{
	r->table = table;
	return check_element(r, root, "");
}
