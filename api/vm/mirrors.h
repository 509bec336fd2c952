/* mirrors: which file gets the guest's changes of a disk beside its image, after blockcopy or an active commit. The VM's
 * process does not know paths, so state.json keeps them.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_MIRRORS_H
#define CAIRN_API_VM_MIRRORS_H

struct json_object;
struct vm;

extern const struct vm_observer mirrors_observer;

/* Note that each change of the disk goes to the file, too, until the observers' copy_ended. The caller saves.
 * path: NULL: not known. */
void mirrors_add(struct vm *vm, const char *disk, const char *path, const char *format);
/* Return the disk's note: an object with `disk`, and with `path` and `format` if they are known; NULL: there is none.
 * Borrowed. */
struct json_object *mirrors_find(const struct vm *vm, const char *disk);

#endif
