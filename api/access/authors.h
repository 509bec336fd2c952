/* authors: the user with whose rights the daemon opens each file of a VM (rights.h): the file's author. The user who
 * first defined a VM stays its definer, and is the author of each file that has no other author. If another user adds
 * a file later, that user is its author. So an edit never applies one user's rights to another user's paths. Stored
 * in the definition file as "definer" and "authors".
 *
 * The list has authors by key. A key is the path of a file, or a setting with its value. It can also be the text of a
 * forward, a bridge, a network or a user interface, because these depend on rights, too. Threading: the daemon's
 * loop. */
#ifndef CAIRN_API_ACCESS_AUTHORS_H
#define CAIRN_API_ACCESS_AUTHORS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct definition;
struct definition_disk;
struct definition_forward;
struct definition_interface;
struct err;
struct json_object;
struct rights;

/* Return the rights for a file of the definition, borrowed from it; NULL: the daemon's own. */
const struct rights *author_of(const struct definition *d, const char *path);
const struct rights *author_of_forward(const struct definition *d, const struct definition_forward *f);
/* The same for an interface. */
const struct rights *author_of_interface(const struct definition *d, const struct definition_interface *n);
/* The same for the value of a setting whose bounds depend on who chose it (api/policy/bounds.h, api/vm/quota_use.h). */
const struct rights *author_of_setting(const struct definition *d, const char *setting, uint32_t value);
/* Return whether the daemon opens all files with its own rights. */
bool authors_are_daemon(const struct definition *d);
/* Return whether the user is the definer and the only author, so that the daemon opens all files with the user's
 * rights. */
bool authors_are_user(const struct definition *d, uid_t uid);

/* Complete a definition that is to replace `old`. Before the call, d->rights holds the rights of the user who edits the
 * VM; afterwards it holds those of the definer, who stays the same. The editor becomes the author of each key that
 * the edit adds, or to which it gives more permissions, such as writing to a file that was read-only. Root needs no
 * such permission, so a key that root changes keeps its author. */
void authors_inherit(struct definition *d, const struct definition *old);
/* Copy definer and authors to a definition that has none. */
void authors_copy(const struct definition *from, struct definition *to);
/* Get the rights of the one author of the disks that the guest may write to.
 * *ret: borrowed from d; NULL: the daemon's own. Returns 0; -EPERM: the disks have several authors. */
int authors_of_disks(const struct definition *d, const struct rights **ret, struct err *e);
/* Set definer and authors of a definition that has none: each part is of `now`, or else of `before`. The definer is
 * that of `now`. */
void authors_restore(struct definition *d, const struct definition *now, const struct definition *before);
/* Set definer and authors of a clone that has none and as many disks. Its definer is the author of the source's disks,
 * or, if they have several, that of the source. Each disk that the guest may write to has the author of the source's
 * disk, and each key that both definitions have keeps its author. */
void authors_clone(const struct definition *source, struct definition *clone);

/* Add "definer" and "authors" to a definition that is about to be stored. */
void authors_put(struct json_object *definition, const struct definition *d);
/* Move "definer" and "authors" of a stored definition to a new object, owned by the caller. */
struct json_object *authors_cut(struct json_object *definition);
/* Set definer and authors of a definition that has none from the object that authors_cut() returned.
 * Returns 0; -EINVAL: malformed; -ENOMEM. */
int authors_load(struct definition *d, struct json_object *cut, struct err *e);
/* Parse a stored definition with its definer and authors, which are cut from o.
 * Returns as definition_parse_stored(). */
int authors_parse_stored(struct json_object *o, struct definition **ret_d, struct err *e);
/* Copy a definition with its definer and authors. Returns likewise. */
int authors_definition_copy(const struct definition *d, struct definition **ret_d, struct err *e);

#endif
