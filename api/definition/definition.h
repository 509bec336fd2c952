/* definition: a VM's configuration as its owner wrote it. The parser turns JSON into a checked struct;
 * the printer writes canonical JSON: most defaults included, keys always in the same order. Reference:
 * docs/definition.md.
 *
 * A definition is untrusted input. The parser checks every key, type and range; its error names the path to
 * the key and an acceptable value. Neither parser nor printer opens a file. Any thread. */
#ifndef CAIRN_API_DEFINITION_DEFINITION_H
#define CAIRN_API_DEFINITION_DEFINITION_H

#include "base/backoff.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct egress;
struct err;
struct json_object;
struct rights;

#define DEFINITION_VERSION 1
#define DEFINITION_FILE_MAX (256 * 1024)
#define DEFINITION_TEXT_MAX (60 * 1024) /* bytes as JSON in a line of the socket: vm-dump-definition answers with one */

/* Same values as enum block_format, which api/ may not include; a unit test compares the two. */
enum definition_format { DEFINITION_FORMAT_RAW = 1, DEFINITION_FORMAT_QCOW2 = 2 };

struct definition_layer {
	char *path; /* absolute */
	char *data_file; /* external data file of a qcow2 image, absolute; NULL: none */
	uint8_t format;
};

enum definition_device { DEFINITION_DISK = 0, DEFINITION_CDROM = 1 };

struct definition_disk {
	char id[16];
	uint8_t device; /* enum definition_device; a cdrom is read_only */
	char serial[24];
	struct definition_layer layers[VM_DISK_LAYERS_MAX]; /* [0] top image, [1] its backing file, … */
	uint16_t nlayers;    /* 0: a cdrom without a medium */
	uint16_t queues;     /* 0: one per vCPU */
	uint16_t queue_size; /* 0: the default */
	uint16_t boot_order; /* 0: none */
	uint8_t error_policy;
	bool read_only;
	struct vm_disk_tune tune; /* its limits */
	uint8_t bus;	       /* enum vm_bus */
	uint8_t detect_zeroes; /* enum vm_zeroes */
	uint8_t cache;	       /* enum vm_cache */
	uint8_t poll_max_us;   /* VM_POLL_* */
	uint8_t no_discard;    /* 1: the guest cannot discard */
	uint16_t logical_block_bytes, physical_block_bytes; /* 0: the defaults */
	uint64_t wwn; /* 0: none */
};

/* The ROM of SeaBIOS, from Debian's package seabios. */
#define DEFINITION_BIOS_PATH "/usr/share/seabios/bios-256k.bin"

#define DEFINITION_BIOS_REMEDY "install the package seabios (apt install seabios), or name another BIOS in boot.loader"
#define DEFINITION_FIRMWARE_RAM (16ULL << 20)
/* UEFI without Secure Boot, and the template of its variables, from Debian's package ovmf. */
#define DEFINITION_UEFI_PATH "/usr/share/OVMF/OVMF_CODE_4M.fd"
#define DEFINITION_NVRAM_PATH "/usr/share/OVMF/OVMF_VARS_4M.fd"
#define DEFINITION_UEFI_REMEDY "install the package ovmf (apt install ovmf), or name a UEFI in boot.loader and its " \
	"variables in boot.nvram_template"
#define DEFINITION_UEFI_RAM (64ULL << 20)
/* iPXE for virtio, from Debian's package ipxe-qemu. */
#define DEFINITION_NETWORK_ROM_PATH "/usr/lib/ipxe/qemu/pxe-virtio.rom"
/* The VGA BIOS for the screen, from Debian's package seabios. */
#define DEFINITION_SCREEN_ROM_PATH "/usr/share/seabios/vgabios-bochs-display.bin"

#define DEFINITION_OEM_STRINGS_MAX 32
#define DEFINITION_INTERFACES_MAX VM_INTERFACES_MAX
#define DEFINITION_MAC_BYTES 6
#define DEFINITION_MAC_TEXT 18 /* size of a MAC address as text, with the NUL */

enum definition_network { DEFINITION_NETWORK = 0, DEFINITION_BRIDGE = 1, DEFINITION_USER = 2 };
/* Actions that a policy applies to a VM. */
enum definition_then { DEFINITION_LEAVE, DEFINITION_DESTROY, DEFINITION_SAVE, DEFINITION_SHUTDOWN, DEFINITION_SUSPEND };
enum definition_clock { DEFINITION_UTC = 0, DEFINITION_LOCALTIME = 1 };

#define DEFINITION_FORWARDS_MAX 16 /* per interface */
#define DEFINITION_CPU_QUOTA_MAX 25600 /* percent of one CPU */
/* Text sizes include the NUL. */
#define DEFINITION_ADDRESS_TEXT 16 /* IPv4 */
#define DEFINITION_HOST_ADDRESS_TEXT 46 /* IPv4 or IPv6 */
#define DEFINITION_PREFIX_TEXT 20
#define DEFINITION_FORWARD_TEXT 64
#define DEFINITION_VSOCK_CID 3 /* if none is given */
/* The guest's connections go to sockets with "_" and a port behind it, which have to fit a struct sockaddr_un. */
#define DEFINITION_VSOCK_PATH_MAX 96
#define DEFINITION_USER_NETWORK "10.0.2.0/24"

enum definition_protocol { DEFINITION_TCP = 0, DEFINITION_UDP = 1 };

/* Forwards a host port to a guest port. */
struct definition_forward {
	uint8_t protocol; /* enum definition_protocol */
	char address[DEFINITION_HOST_ADDRESS_TEXT]; /* IPv4; IPv6 only with type network */
	uint16_t port, to;
	char guest[DEFINITION_ADDRESS_TEXT]; /* IPv4; empty: the guest's DHCP address */
};

/* Settings of an interface of type user. */
struct definition_user {
	char network[DEFINITION_PREFIX_TEXT]; /* never empty for type user */
	uint32_t nforwards;
	struct definition_forward forwards[DEFINITION_FORWARDS_MAX];
	bool restricted, host_loopback;
};

/* Limits of one direction of an interface; 0: none. Rates and the burst in KiB (a second). */
struct definition_limit {
	uint32_t average, peak, burst;
	uint32_t packets; /* a second */
};

struct definition_bandwidth {
	struct definition_limit in, out; /* in: to the guest */
};

struct definition_interface {
	char id[16];
	uint8_t type;	  /* enum definition_network */
	char source[64];  /* name of the network or bridge; empty for type user */
	uint8_t mac[DEFINITION_MAC_BYTES]; /* all zero: none given */
	uint8_t model;	  /* 0: virtio, the only model */
	uint8_t link;	  /* 0: up, 1: down */
	uint16_t queues;  /* pairs of queues; 0: 1 */
	bool vhost;	  /* the host's kernel moves the frames */
	uint16_t boot_order; /* as of a disk; 0: none */
	uint16_t slot;	  /* on the PCI bus; 0: a free one, as the machine is built */
	bool clean_traffic, isolated; /* requested in addition to the network's own filter: docs/networks.md, "Ports" */
	struct definition_user user; /* all zero for other types */
	struct definition_bandwidth bandwidth;
	struct egress *egress; /* destinations that the guest may reach (base/egress.h); owned; NULL: all */
};

/* A user other than the definer whose rights open a file (api/access/authors.h). */
struct definition_author {
	char *key; /* owned */
	struct rights *rights; /* owned; NULL: the daemon itself */
};

struct definition {
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16]; /* all zero: none given */
	char *title, *description; /* NULL: none */
	uint64_t ram_bytes;
	uint32_t vcpus, max_vcpus; /* max_vcpus 0: vCPUs neither come nor go */
	uint32_t sockets, cores, threads; /* 0 0 0: none given */
	char *kernel, *initrd, *cmdline; /* NULL: none; paths are absolute */
	uint8_t firmware; /* enum vm_firmware; with one, kernel, initrd and cmdline are NULL */
	uint16_t machine; /* the machine version that it boots as (machine_version_boots()); 0: none given */
	char *loader;	  /* file of the firmware; NULL: the default, or no firmware */
	char *nvram_template; /* of the UEFI variables; NULL: the default */
	bool boot_menu;
	uint32_t boot_menu_ms; /* 0: the firmware's default */
	char *sysinfo[VM_SYSINFO_KEYS]; /* by enum vm_sysinfo_key; NULL: none */
	char *oem_strings[DEFINITION_OEM_STRINGS_MAX];
	uint32_t noem_strings;
	struct definition_disk *disks;
	uint32_t ndisks;
	struct definition_interface *interfaces;
	uint32_t ninterfaces;
	uint8_t clock; /* enum definition_clock */
	uint32_t shutdown_deadline_s;
	uint8_t shutdown_then, stop_action; /* enum definition_then */
	uint32_t order, start_delay_s; /* order: for autostart and the host's shutdown; start_delay_s: for autostart */
	struct backoff_rule restart; /* back-off of restarts by the daemon and of resets by the guest */
	uint32_t idle_after_s; /* 0: never */
	uint32_t idle_cpu_percent; /* percent of one CPU; usage up to this value counts as idle */
	uint8_t idle_action; /* enum definition_then: suspend or save */
	bool balloon;
	uint64_t balloon_bytes; /* memory that the balloon leaves to the guest at the start; 0: all */
	bool rng, virtio_console, guest_agent, debug_exit, huge_pages, small_pages, reclaim_on_pressure, systemd_scope, screen, tablet;
	uint64_t memory_max_bytes; /* of the process; 0: the budget of api/vm/vm_cgroup.h */
	uint32_t cpu_shares; /* 0: none given */
	uint32_t cpu_quota; /* percent of one CPU, at most DEFINITION_CPU_QUOTA_MAX; 0: no limit */
	struct definition_balance {
		bool shares, memory; /* whether the daemon may change them; without, the bounds are 0 */
		uint32_t shares_min, shares_max;   /* 0: the VM's cpu_shares */
		uint64_t memory_min, memory_max;   /* bytes; 0: the memory that the VM starts with, and all */
	} balance; /* api/policy/balancer.h */
	char *cpu; /* the processor (base/cpu_model.h); NULL: host */
	uint8_t assist, on_poweroff, on_reboot, on_crash; /* enums in vm_msg.h */
	uint32_t vsock_cid; /* 0: no vsock device */
	char *vsock_path; /* of the socket for the host's clients; NULL: none */
	struct definition_vnc {
		bool on;
		char *path; /* of the Unix socket for VNC clients; NULL: TCP */
		char address[46];
		uint32_t port; /* 0: a Unix socket */
		char *password_file; /* NULL: clients need no password */
	} vnc;
	struct definition_share {
		char *path, *tag; /* owned */
		bool read_only;
	} shares[VM_SHARES_MAX];
	uint32_t nshares;
	uint8_t watchdog, watchdog_action; /* enum vm_watchdog_model, vm_watchdog_action */
	/* The user whose rights open the files; owned. NULL (the parser's result): the daemon itself. Not
	 * part of the JSON. */
	struct rights *rights;
	struct definition_author *authors; /* owned; not part of the JSON */
	uint32_t nauthors;
};

/* Parse a definition, of DEFINITION_TEXT_MAX bytes at most.
 * folder: absolute base of relative paths; NULL: a relative path is an error.
 * Returns 0; -EINVAL; -ENOMEM. The caller frees *ret_d with definition_free(). */
int definition_parse(struct json_object *o, const char *folder, struct definition **ret_d,
	struct err *e);
/* Parse a definition that the daemon has accepted before. It may be longer, and its texts may have control characters,
 * since older versions accepted that. One without a machine version gets machine_version_unnamed(). Returns as
 * definition_parse(). */
int definition_parse_stored(struct json_object *o, struct definition **ret_d, struct err *e);
/* Print the key of a layer's file: "disks[0].path", "disks[0].backing[1].path". what: the last part. */
void definition_layer_key(unsigned disk, unsigned layer, const char *what, char *ret, size_t cap);
void definition_free(struct definition *d);
/* For CLEANUP(). */
void definition_free_p(struct definition **d);

/* Return "raw" or "qcow2". */
const char *definition_format_name(enum definition_format f);
/* Return the name of an enum vm_watchdog_action: "reset", … */
const char *definition_watchdog_action(unsigned action);

/* Return the canonical JSON, owned by the caller. Parsing it gives an equal definition. */
struct json_object *definition_to_json(const struct definition *d);
/* Add a forward's keys to an object. */
void definition_put_forward(struct json_object *o, const struct definition_forward *f);

/* Check the name of a new VM: also that it is no UUID, which older VMs may have as their names. The error names no key.
 * Returns 0; -EINVAL. */
int definition_check_name(const char *name, struct err *e);

bool definition_has_mac(const struct definition_interface *i);
/* Return the slot that each interface gets on the PCI bus when the VM boots, in the order of vmm/machine/machine.c;
 * 0: the bus is full. */
void definition_interface_slots(const struct definition *d, uint8_t ret[DEFINITION_INTERFACES_MAX]);
/* Set a random MAC address with the prefix 52:54:00. Returns 0 or -errno. */
int definition_make_mac(struct definition_interface *i, struct err *e);
void mac_print(const uint8_t mac[DEFINITION_MAC_BYTES], char text[DEFINITION_MAC_TEXT]);
/* Parse a MAC address. Returns 0; -EINVAL. */
int mac_parse(const char *text, uint8_t mac[DEFINITION_MAC_BYTES]);

/* Parse the limits of one direction. name: for the error. *ret: untouched on errors. Returns 0; -EINVAL. */
int definition_parse_limit(struct json_object *o, const char *name, struct definition_limit *ret, struct err *e);
struct vm_interface_limit definition_limit_bytes(const struct definition_limit *l);
/* Return {inbound, outbound} as in a definition, without a direction that has no limit. The caller owns it. */
struct json_object *definition_limits_to_json(const struct vm_interface_limits *l);

/* Return whether the two forwards would listen on the same host port. */
bool definition_forwards_meet(const struct definition_forward *a, const struct definition_forward *b);
/* Print a forward as "tcp 127.0.0.1:2222" or "tcp [::1]:2222". */
void definition_forward_print(const struct definition_forward *f, char text[DEFINITION_FORWARD_TEXT]);

/* The shares of a VM without cpu_shares. */
#define DEFINITION_CPU_SHARES 1024
/* Return the memory that the balloon leaves to the guest at the start, or all. */
static inline uint64_t definition_first_memory(const struct definition *d)
{
	return d->balloon_bytes ? d->balloon_bytes : d->ram_bytes;
}
/* Return the most vCPUs that the VM can have. */
unsigned definition_vcpus_max(const struct definition *d);
/* Return the vCPUs of these that it lacks at its start, a bit for each. */
uint64_t definition_vcpus_absent(const struct definition *d);
/* Find a disk by id or by the path of its image. Returns its index; -ENOENT. */
int definition_disk_find(const struct definition *d, const char *which);

/* Return whether a limit other than iops and bps is set. */
bool definition_tune_is_more(const struct vm_disk_tune *t);
/* Put the keys of the limits that are set. */
void definition_put_tune(struct json_object *o, const struct vm_disk_tune *t);

#endif
