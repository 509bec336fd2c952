/* definition: what a VM is, as its owner wrote it. JSON in, a checked struct out, and
 * back as canonical JSON (every key stated, in one order). docs/definition.md is the
 * reference.
 *
 * A definition is untrusted: every key, type and range is checked, and the sentence names
 * the path to the key and what would be right. No file is opened here. */
#ifndef CAIRN_API_DEFINITION_DEFINITION_H
#define CAIRN_API_DEFINITION_DEFINITION_H

#include "base/backoff.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_object;
struct rights;

#define DEFINITION_VERSION 1
#define DEFINITION_FILE_MAX (256 * 1024)
#define DEFINITION_UUID_TEXT 37 /* with the NUL */

/* The values of block's enum block_format, which api may not include; a unit test holds
 * them together. */
enum definition_format { DEFINITION_FORMAT_RAW = 1, DEFINITION_FORMAT_QCOW2 = 2 };

struct definition_layer {
	char *path; /* absolute */
	char *data_file; /* a qcow2 image's external one, absolute; NULL: none */
	uint8_t format;
};

enum definition_device { DEFINITION_DISK = 0, DEFINITION_CDROM = 1 };

struct definition_disk {
	char id[16];
	uint8_t device; /* enum definition_device; a cdrom is read_only */
	char serial[24];
	struct definition_layer layers[VM_DISK_LAYERS_MAX]; /* [0] the disk, [1] its backing, … */
	uint16_t nlayers;    /* 0: a cdrom without a medium */
	uint16_t queues;     /* 0: one per vCPU */
	uint16_t queue_size; /* 0: the default */
	uint16_t boot_order; /* 0: none */
	uint8_t error_policy;
	bool read_only;
};

#define DEFINITION_INTERFACES_MAX VM_INTERFACES_MAX
#define DEFINITION_MAC_BYTES 6
#define DEFINITION_MAC_TEXT 18 /* with the NUL */

enum definition_network { DEFINITION_NETWORK = 0, DEFINITION_BRIDGE = 1, DEFINITION_USER = 2 };
/* What a policy does with a VM. */
enum definition_then { DEFINITION_LEAVE, DEFINITION_DESTROY, DEFINITION_SAVE, DEFINITION_SHUTDOWN, DEFINITION_SUSPEND };
enum definition_clock { DEFINITION_UTC = 0, DEFINITION_LOCALTIME = 1 };

#define DEFINITION_FORWARDS_MAX 16 /* of an interface */
#define DEFINITION_ADDRESS_TEXT 16 /* with the NUL, as the next ones */
#define DEFINITION_PREFIX_TEXT 20
#define DEFINITION_FORWARD_TEXT 32
#define DEFINITION_USER_NETWORK "10.0.2.0/24"

enum definition_protocol { DEFINITION_TCP = 0, DEFINITION_UDP = 1 };

/* A port of this host's that leads to one of the guest's. */
struct definition_forward {
	uint8_t protocol; /* enum definition_protocol */
	char address[DEFINITION_ADDRESS_TEXT]; /* IPv4 */
	uint16_t port, to;
	char guest[DEFINITION_ADDRESS_TEXT]; /* the same; empty: what it gets by DHCP */
};

/* Of an interface of type user. */
struct definition_user {
	char network[DEFINITION_PREFIX_TEXT]; /* never empty, of type user */
	uint32_t nforwards;
	struct definition_forward forwards[DEFINITION_FORWARDS_MAX];
	bool restricted, host_loopback;
};

struct definition_interface {
	char id[16];
	uint8_t type;	  /* enum definition_network */
	char source[64];  /* the network's or the bridge's name; empty: user */
	uint8_t mac[DEFINITION_MAC_BYTES]; /* all zero: none given */
	uint8_t model;	  /* virtio is 0, and the only one */
	uint8_t link;	  /* 0: up, 1: down */
	struct definition_user user; /* all zero: of another type */
};

struct definition {
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16]; /* all zero: none given */
	char *title, *description; /* NULL: none */
	uint64_t ram_bytes;
	uint32_t vcpus;
	uint32_t sockets, cores, threads; /* 0 0 0: none given */
	char *kernel, *initrd, *cmdline; /* NULL: none; paths are absolute */
	struct definition_disk *disks;
	uint32_t ndisks;
	struct definition_interface *interfaces;
	uint32_t ninterfaces;
	uint8_t clock; /* enum definition_clock */
	uint32_t shutdown_deadline_s;
	uint8_t shutdown_then, stop_action; /* enum definition_then */
	uint32_t order, start_delay_s; /* of those that the daemon starts and stops */
	struct backoff_rule restart; /* after a crash; and how the guest's own resets are slowed down */
	uint32_t idle_after_s; /* 0: never */
	uint32_t idle_cpu_percent; /* of one processor: what does not count as work */
	uint8_t idle_action; /* enum definition_then: suspend or save */
	bool rng, virtio_console, guest_agent, debug_exit, huge_pages;
	uint8_t assist, on_poweroff, on_reboot, on_crash; /* as in vm_msg.h */
	uint8_t watchdog, watchdog_action; /* enum vm_watchdog_model, vm_watchdog_action */
	/* With which its files are opened; owned. NULL, as definition_parse() leaves it: the
	 * daemon's own. No part of the JSON. */
	struct rights *rights;
};

/* folder: absolute; relative paths are taken from it; NULL: a relative path is an error.
 * Returns 0; -EINVAL with a sentence. The caller frees *ret_d with definition_free(). */
int definition_parse(struct json_object *o, const char *folder, struct definition **ret_d,
	struct err *e);
/* "disks[0].path", "disks[0].backing[1].path": the key of a layer's file. */
void definition_layer_key(unsigned disk, unsigned layer, const char *what, char *ret, size_t cap);
void definition_free(struct definition *d);

/* "reset", … */
const char *definition_watchdog_action(unsigned action);

/* Canonical JSON; the caller puts it. Parsing it gives an equal definition. */
struct json_object *definition_to_json(const struct definition *d);

/* Every file that the definition names: there, and of the right kind. Opens nothing. */
int definition_check_files(const struct definition *d, struct err *e);

/* What is kept and has no effect yet, a sentence each: an array of strings, the caller's to put. */
struct json_object *definition_warnings(const struct definition *d);

/* Is name one that a VM may have? Sentence without a path to a key. */
int definition_check_name(const char *name, struct err *e);

bool definition_has_mac(const struct definition_interface *i);
/* 52:54:00 and three random bytes. Returns 0 or -errno. */
int definition_make_mac(struct definition_interface *i, struct err *e);
void mac_print(const uint8_t mac[DEFINITION_MAC_BYTES], char text[DEFINITION_MAC_TEXT]);

/* Can only one of them be listened on? */
bool definition_forwards_meet(const struct definition_forward *a, const struct definition_forward *b);
/* "tcp 127.0.0.1:2222" */
void definition_forward_print(const struct definition_forward *f, char text[DEFINITION_FORWARD_TEXT]);

bool definition_has_uuid(const struct definition *d);
/* A random one (RFC 4122, 4.4). Returns 0 or -errno. */
int definition_make_uuid(struct definition *d, struct err *e);
void uuid_print(const uint8_t uuid[16], char text[DEFINITION_UUID_TEXT]);
/* Of a hexadecimal digit; -1: it is none. */
int hex_value(char c);
/* With or without dashes' other case; returns 0 or -EINVAL. */
int uuid_parse(const char *text, uint8_t uuid[16]);

#endif
