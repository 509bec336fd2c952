/* pull_mark: the disks whose pull (api/jobs/pull.h) has begun and has not ended. The image of such a disk may have
 * lost its backing files although the definition still names them, such as after a kill of the daemon. Without a mark,
 * the VM process refuses an image that lacks the backing files of its definition. The marks are saved in state.json.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_PULL_MARK_H
#define CAIRN_API_VM_PULL_MARK_H

#include <stdint.h>

struct vm;
struct vm_config;
struct vm_observer;

/* Mark the disk of that image, if the definition names its backing files, and save. The mark is on stable storage when
 * the work of a later store_after() is done. The mark ends when the definition names no backing file for the image, nor
 * does the one that the VM runs with.
 * rate_bytes_per_s: of the pull, 0: no limit; saved, too. */
void pull_mark(struct vm *vm, const char *image, uint64_t rate_bytes_per_s);
/* Return the path of a marked image; NULL: none. Borrowed until the marks change. */
const char *pull_marked(const struct vm *vm);
/* Remove the mark, because the image still has its backing files, and save. */
void pull_unmark(struct vm *vm, const char *image);
/* Set may_stand_alone of the marked disks in c, which was made from vm->def, and clear it for the others. */
void pull_mark_add(const struct vm *vm, struct vm_config *c);

extern const struct vm_observer pull_mark_observer;

#endif
