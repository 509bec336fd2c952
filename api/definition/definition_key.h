/* definition_key: the tables of a definition's keys, and the parser that reads a JSON object by its table. Private to
 * api/definition/. A new key needs a row in a table, a field in struct definition and a line in the printer. */
#ifndef CAIRN_API_DEFINITION_DEFINITION_KEY_H
#define CAIRN_API_DEFINITION_DEFINITION_KEY_H

#include "api/definition/definition.h"

#include <stddef.h>
#include <stdint.h>

struct parse {
	struct definition *d;
	const char *folder;
	struct err *e;
	char path[128]; /* "disks[0].backing[1].format" */
	bool stored;	/* the definition comes from the state folder */
};

enum key_kind {
	KEY_BOOL,     /* bool */
	KEY_NUMBER,   /* uint32_t in [min, max] */
	KEY_NUMBER16, /* uint16_t */
	KEY_CHOICE,   /* uint8_t, one of choices */
	KEY_TEXT,     /* char *, one line of at most max bytes */
	KEY_PATH,     /* char *, made absolute */
	KEY_OBJECT,   /* `of` lists its keys; parse() prepares the struct and may be NULL */
	KEY_OBJECT_OWNED, /* the same in a struct that parse() allocates and reads */
	KEY_ARRAY,    /* at most max objects with the keys of `of`; parse() reads them */
	KEY_LIST,     /* at most max values of the form; parse() reads them */
	KEY_CUSTOM,   /* parse() reads it */
};

struct choice {
	const char *name; /* NULL ends a list */
	uint8_t value;
};

struct keys;

struct key {
	const char *name;
	enum key_kind kind;
	size_t offset; /* offset of the field in the object's struct */
	uint32_t min, max;
	const struct choice *choices;
	const char *noun; /* of a choice, for errors, such as "a disk format"; NULL: "one of the choices" */
	const struct keys *of;
	int (*parse)(struct parse *p, struct json_object *v, void *into);
	/* For the JSON Schema (definition_schema.c): a description; the default as JSON text; for KEY_CUSTOM
	 * and for each value of KEY_LIST, the schema's members that describe what parse() accepts, as JSON text. */
	const char *about, *initial, *form;
	bool needed;
};

struct keys {
	const struct key *list;
	size_t n;
	const char *also; /* JSON text: members of the schema for several keys at once; NULL: none */
};

#define KEYS(name, rows) static const struct keys name = { rows, ARRAY_SIZE(rows), NULL }
#define KEY_SIZE_FORM "{\"type\":\"string\",\"pattern\":\"^[0-9]+([.][0-9]+)?([KMGTPEkmgtpe]([Ii]?[Bb])?|" \
	"[Bb]([Yy][Tt][Ee][Ss]?)?)?$\"}"
#define KEY_MEMORY_FORM "{\"anyOf\":[{\"type\":\"integer\",\"minimum\":1,\"maximum\":1048576}," KEY_SIZE_FORM "]}"
#define KEY_ID_FORM "{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9_-]{1,15}$\"}"

#define KEY_BYTE_FORM "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define KEY_IPV4_FORM "(" KEY_BYTE_FORM "\\\\.){3}" KEY_BYTE_FORM
#define KEY_MAC_FORM "{\"type\":\"string\",\"pattern\":\"^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$\"," \
	"\"not\":{\"pattern\":\"^[0:]*$\"}}"
#define KEY_UUID_FORM "{\"type\":\"string\",\"not\":{\"pattern\":\"^[0-]*$\"}," \
	"\"pattern\":\"^[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}$\"}"

/* Parse the object o by its table into the struct at base. Returns 0; -EINVAL; -ENOMEM. */
int keys_parse(struct parse *p, struct json_object *o, const struct keys *keys, void *base);

/* Set the error: the path to the key, then the formatted text. Returns -EINVAL. */
int key_error(struct parse *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Note that a stored definition may be a newer Cairn's: the caller of the parser then leaves it alone. r: of
 * key_error(). Returns r. */
int key_newer_error(const struct parse *p, int r);
/* Append an index to p->path. Returns the old length; to go back, set p->path[length] = 0. */
size_t key_push_index(struct parse *p, size_t i);
/* Copy the start of s in a form that is safe to print. */
void key_quote(const char *s, char out[48]);
/* Return v's string if it has no NUL and at most max bytes; it lives as long as v. NULL: the error is set. */
const char *key_text(struct parse *p, struct json_object *v, size_t max);
/* Parse an id: 1 to 15 letters, digits, "-", "_". Returns 0; -EINVAL. */
int key_parse_id(struct parse *p, struct json_object *v, void *into);
/* Parse a UUID, which has to be set. Returns 0; -EINVAL. */
int key_parse_uuid(struct parse *p, struct json_object *v, void *into);

/* Parse a size of memory, and print one. Returns 0; -EINVAL. */
int key_parse_memory(struct parse *p, struct json_object *v, void *into);
void key_put_memory(struct json_object *o, const char *key, uint64_t bytes);

extern const struct keys definition_keys; /* the top-level keys */
extern const struct keys network_definition_keys; /* those of a network */
extern const struct keys definition_disk_keys, definition_interface_keys;
int definition_parse_disks(struct parse *p, struct json_object *v, void *into);
int definition_parse_interfaces(struct parse *p, struct json_object *v, void *into);
/* For interfaces of type user: the keys of one forward; the parsers of the keys `network` and `forwards`; whether all
 * keys have their defaults; the printer of the keys. */
extern const struct keys definition_forward_keys;
int definition_parse_network(struct parse *p, struct json_object *v, void *into);
int definition_parse_forwards(struct parse *p, struct json_object *v, void *into);
bool definition_user_is_plain(const struct definition_user *u);
void definition_put_user(struct json_object *o, const struct definition_user *u);
/* The forwards alone, if there are any. */
void definition_put_published(struct json_object *o, const struct definition_user *u);
/* The key `bandwidth` of an interface. */
extern const struct keys definition_bandwidth_keys;
int definition_check_bandwidth(struct parse *p, const struct definition_bandwidth *b);
void definition_put_bandwidth(struct json_object *o, const struct definition_bandwidth *b);
/* The key `egress` of an interface: into is a struct egress *, owned. */
extern const struct keys definition_egress_keys;
int definition_parse_egress(struct parse *p, struct json_object *v, void *into);
void definition_put_egress(struct json_object *o, const struct egress *e);
/* The key `shares`. */
extern const struct keys definition_share_keys;
int definition_parse_shares(struct parse *p, struct json_object *v, void *into);
void definition_free_shares(struct definition *d);
/* The key `vnc`. */
struct definition_vnc;
int definition_parse_vnc(struct parse *p, struct json_object *v, void *into);
void definition_free_vnc(struct definition_vnc *v);
/* The key `sysinfo`. definition_encode_sysinfo(): as vm_config.sysinfo. */
extern const struct keys definition_sysinfo_keys;
int definition_check_sysinfo(struct parse *p);
void definition_encode_sysinfo(const struct definition *d, char to[VM_SYSINFO_MAX]);
void definition_free_sysinfo(struct definition *d);
extern const struct keys definition_restart_keys, definition_shutdown_keys, definition_idle_keys;
extern const struct choice definition_stop_actions[];
/* The key `balance`. */
extern const struct keys definition_balance_keys;
int definition_check_balance(struct parse *p);
void definition_put_balance(struct json_object *o, const struct definition *d);
int definition_prepare_idle(struct parse *p, struct json_object *v, void *into);
void definition_policy_default(struct definition *d);
void definition_put_policies(struct json_object *o, const struct definition *d);

/* These functions check conditions on several keys, such as unique values. Call them after all keys are parsed.
 * Return 0; -EINVAL. */
int definition_check_disks(struct parse *p);
int definition_check_interfaces(struct parse *p);
int definition_check_forwards(struct parse *p);
int definition_check_policy(struct parse *p);
int definition_check_vnc(struct parse *p);
void definition_disks_free(struct definition *d);

#endif
