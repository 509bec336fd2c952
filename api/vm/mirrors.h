/* mirrors: which file gets the guest's changes of a disk beside its image, after blockcopy or an active commit. The
 * VM's process does not know paths, so state.json keeps them.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_MIRRORS_H
#define CAIRN_API_VM_MIRRORS_H

#include <sys/types.h>

struct json_object;
struct vm;

extern const struct vm_observer mirrors_observer;

/* Note that each change of the disk goes to the file, too, until the observers' copy_ended. The caller saves.
 * type: of the job that began it. path: NULL: not known. uid: who says that this is its path; 0: also the
 * definition. */
void mirrors_add(struct vm *vm, const char *disk, const char *type, const char *path, const char *format, uid_t uid);
/* Return the disk's note: an object with `disk` and `type`, and with `path`, `format` and `user` if they are known;
 * NULL: there is none. Borrowed. */
struct json_object *mirrors_find(const struct vm *vm, const char *disk);

#endif
