/* former_files: the files that a disk of an imported VM had as layers until a pull, a commit or a pivot to a copy. All
 * their data is in the layers that the disk still has. undefine removes these files with the import's other files
 * (api/jobs/volumes.h). The list is saved in state.json.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_FORMER_FILES_H
#define CAIRN_API_VM_FORMER_FILES_H

#include <stddef.h>
#include <stdint.h>

struct definition;
struct definition_disk;
struct vm;
struct vm_observer;

/* File in the folder of an imported VM in the state folder; it names the folder that the import made. */
#define IMPORTED_FILE "imported.json"

/* Remember the files of the disk's layers from `from` to `to` - 1, and save. Files that another user than the VM's
 * definer added are not remembered. Does nothing if the VM was not imported. def: has the disk, and its authors. */
void former_files_add(struct vm *vm, const struct definition *def, const struct definition_disk *d, unsigned from, unsigned to);
/* Return the i-th such file of the VM; NULL: there is none. Borrowed until the next former_files_add().
 * ret_disk: id of the disk that had the file; borrowed alike.
 * ret_ns:   when the disk stopped using the file. A file that was changed later is another one. */
const char *former_files_at(const struct vm *vm, size_t i, const char **ret_disk, uint64_t *ret_ns);

extern const struct vm_observer former_files_observer;

#endif
