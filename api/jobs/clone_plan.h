/* clone_plan: what the clones of a VM will be: names, definitions, files. Nothing is made, no file looked at. */
#ifndef CAIRN_API_JOBS_CLONE_PLAN_H
#define CAIRN_API_JOBS_CLONE_PLAN_H

#include <stdbool.h>
#include <stddef.h>

struct definition;
struct err;
struct json_object;
struct vm;

#define CLONES_MAX 1000

struct clone_how {
	const char *name;    /* NULL: a pattern says */
	const char *pattern; /* "web-%02d"; NULL: name alone, or with -1, -2, ... */
	unsigned count;	     /* 0: one */
	bool linked;
	bool snapshots; /* of a full one: takes along what is in its images */
	bool reset_identity;
	struct json_object *files; /* array: of each disk that is written to, where its copy goes; NULL: beside it */
	struct json_object *macs;  /* array, of each interface; NULL: made */
	const char *uuid;	   /* NULL: made */
};

struct clone_plan {
	struct definition **defs; /* owned, each */
	unsigned n;
};

/* Returns 0; -EEXIST for a name, a path, a MAC or a uuid that is taken; -EINVAL, -ENOTSUP. */
int clone_plan_make(const struct vm *source, const struct clone_how *how, struct clone_plan *ret_p, struct err *e);
void clone_plan_done(struct clone_plan *p);
/* For a look before it is done: name, uuid, disks (id, path, from). */
struct json_object *clone_plan_to_json(const struct clone_plan *p, const struct vm *source);

/* The i-th name, from 1, of a pattern with one %d, %3d or %03d. Returns 0; -EINVAL. */
int clone_pattern_name(const char *pattern, unsigned i, char *ret, size_t cap, struct err *e);

#endif
