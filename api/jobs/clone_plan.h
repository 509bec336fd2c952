/* clone_plan: computes names, definitions and file paths of a VM's clones. Creates nothing and looks at no file. */
#ifndef CAIRN_API_JOBS_CLONE_PLAN_H
#define CAIRN_API_JOBS_CLONE_PLAN_H

#include <stdbool.h>
#include <stddef.h>

struct definition;
struct err;
struct json_object;
struct owner_claim;
struct vm;

#define CLONES_MAX 1000

struct clone_opts {
	const char *name;    /* NULL: use the pattern */
	const char *pattern; /* "web-%02d"; NULL: use the name, followed by -1, -2, … unless count is 0 */
	unsigned count;	     /* 0: one clone */
	bool linked;
	bool snapshots; /* full clones only: copy the snapshots in the images, too */
	bool reset_identity;
	struct json_object *files; /* array: the copy's path for each writable disk; NULL: beside the original */
	struct json_object *macs;  /* array of MACs for the first interfaces; the others, or all with NULL: generated */
	const char *uuid;	   /* NULL: generated */
	struct owner_claim *owners; /* of a creator who makes the clones; taken by clone_plan_make(); NULL: none */
};

struct clone_plan {
	struct definition **defs; /* owned */
	unsigned n;
	struct owner_claim *owners; /* owned */
};

/* Make a plan. Returns 0; -EEXIST: a name, path, MAC or uuid is in use; -EINVAL; -ENOTSUP; -errno. */
int clone_plan_make(const struct vm *source, const struct clone_opts *opts, struct clone_plan *ret_p, struct err *e);
/* Free the plan's members, and clear *p. */
void clone_plan_done(struct clone_plan *p);
/* Return the plan for --dry-run: an array of name, disks (id, path, from). The caller owns it. */
struct json_object *clone_plan_to_json(const struct clone_plan *p, const struct vm *source);

/* Print the name of clone i, counted from 0: by the pattern, else NAME-1, NAME-2, … unless count is 0. The name is not
 * checked. Returns 0; -EINVAL. */
int clone_name_print(const char *name, const char *pattern, unsigned count, unsigned i, char *ret, size_t cap, struct err *e);
/* Print a pattern with i in place of its one number: %d, %3d or %03d. Returns 0; -EINVAL. */
int clone_pattern_name(const char *pattern, unsigned i, char *ret, size_t cap, struct err *e);

#endif
