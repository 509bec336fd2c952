/* change: change a VM's definition for its next start. The daemon saves a change only if the definition is still the
 * one that was read, so two users who change one VM at the same time do not overwrite each other. */
#ifndef CAIRN_TOOLS_CHANGE_H
#define CAIRN_TOOLS_CHANGE_H

#include <stdbool.h>

struct cli;
struct err;
struct json_object;

/* Options of the verbs that use change_make(). */
#define CHANGE_OPTIONS                                                                              \
	{ "config", NULL, "change the next start of the VM [default]" },                                    \
	{ "live", NULL, "refused: the verb cannot change a running VM" },                           \
	{ "current", NULL, "the same as --config, for a VM that is off" },                          \
	{ "print-only", NULL, "show the change, and do not save it" }

/* Options of the verbs that attach and detach devices. */
#define PLUG_OPTIONS                                                                                \
	{ "live", NULL, "change the running VM [default, if it runs]" },                            \
	{ "config", NULL, "change the next start of the VM [default, if the VM is off]" },           \
	{ "persistent", NULL, "change the next start, and the VM if it runs" },                      \
	{ "current", NULL, "the running VM, or the next start of a VM that is off" },               \
	{ "print-only", NULL, "show the change of the next start, and do not save it" }

/* Read the definition, change it and have the daemon save it; if another user has changed it in the meantime, repeat,
 * up to 8 times. Prints the daemon's warnings on stderr. Refuses --live, and --current for a running VM.
 * edit: changes the canonical JSON `definition` in place; returns 0; -errno with a sentence; another value, which is
 * returned. May be called several times.
 * opaque: passed to edit.
 * Returns 0; 1: only shown (--print-only); -errno. */
int change_make(struct cli *c, const char *vm,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e),
	void *opaque, struct err *e);

/* The same for verbs that can change a running VM, too: ignores --live and --current. both: the running VM has the
 * change already, so no note says that it comes with the next start. */
int change_make_config(struct cli *c, const char *vm, bool both,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e);

/* The scope of a verb: the running VM, the definition of the next start, or both. */
struct place {
	bool live, config;
};

/* Choose the place. Without --live and --config: the running VM if there is one. --persistent: the next start, and the
 * VM if it runs; --print-only: the next start. Returns 0; -errno; CLI_USAGE after an error message. */
int place_choose(struct cli *c, struct place *ret, struct err *e);

/* Change the place that the options choose: the running VM by live(), then the definition by edit(), as
 * change_make_config(). Of both places, neither is changed if the daemon would refuse the definition; if only the
 * second change fails nevertheless, the error says so. Returns as these. */
int change_plug(struct cli *c, int (*live)(struct cli *c, void *opaque, struct err *e),
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e);

/* The same for an edit() that needs what live() finds out, so that nothing can be checked before. */
int change_plug_unchecked(struct cli *c, int (*live)(struct cli *c, void *opaque, struct err *e),
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e);

/* Read the definition that the next start uses. The caller owns it. Returns 0 or -errno. */
int change_read(struct cli *c, const char *vm, struct json_object **ret_definition, struct err *e);
/* Read the definition of the running VM; of one that is off, that of the next start. The caller owns it. Returns 0 or
 * -errno. */
int change_read_running(struct cli *c, const char *vm, struct json_object **ret_definition, struct err *e);
/* Read the list `key` from the definition of the running VM; with --inactive, from the one that the next start uses.
 * The caller owns *ret_list. Returns 0 or -errno. */
int change_read_list(struct cli *c, const char *vm, const char *key, struct json_object **ret_list, struct err *e);
/* Print the outcome of change_make(): "Failed to <what>", or "<done> successfully" if the definition was changed.
 * Returns the exit code. */
int change_print(int r, const struct err *e, const char *what, const char *done);
/* Have the daemon save `now` if the definition is still `was`. Returns 0; -errno, with class ERR_BUSY if it is not. */
int change_define(struct cli *c, struct json_object *was, struct json_object *now, struct err *e);

/* Print a note that the next start has an image of its own for this disk of it. */
void note_kept_image(const char *vm, struct json_object *disk);

/* Returns the index of the first object in the array whose member `key` is `value`; -1: none. */
int change_find(struct json_object *list, const char *key, const char *value);
/* Find a disk by its target or the path of its image. disks: NULL: none. Returns its index; -ENOENT. */
int change_find_disk(struct json_object *disks, const char *which, struct err *e);

#endif
