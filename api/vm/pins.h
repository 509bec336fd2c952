/* pins: a list of the overlays of live clones, each with the image and the pin that it reads. A pin is a hidden
 * snapshot in the image of a fork's source (block/qcow2/pin.h); the daemon keeps it as long as an overlay reads it.
 * The daemon parses no image, so it stores the list in PINS_FILE. A row is about files, not about VMs: a VM that is
 * undefined without its images leaves its row, and so its pin, in place.
 *
 * The daemon chooses a pin's id and stores it before the pin is made. If the process may use an earlier pin instead,
 * the row has both ids until the process has reported which pin the overlay reads; until then, both are in use. A
 * stored row with both ids keeps one pin longer than needed, at most.
 *
 * The daemon sends a VM's process the ids of the pins to delete, so a pin that the list does not name is never deleted.
 * If the list is lost, it is built again from the overlays that the daemon knows (pin_scan.h). Other overlays may read
 * the same pins, so a pin from before the loss is kept for ever: the loss costs space, but no data.
 *
 * After a power cut, the stored list may be older than the images, because the daemon does not wait for the disk:
 * - A pin may be in its image although the list lacks it: the fork was under way. The job of a fork succeeds only when
 *   everything that the store was given before is on stable storage, so the clone is gone, too; the pin costs space.
 * - The list may have an overlay that is gone, and whose pin was deleted. No pin of a VM's listed overlay is deleted
 *   too early: before the daemon asks a process to delete it, the overlay's header without backing file is on stable
 *   storage (block/pull.h), or the store has a plan to remove the overlay, which the next daemon completes. Undefine
 *   waits until its plan is on stable storage; a batch gives its plan to the store before the VMs' definitions.
 *
 * A pin that is due waits for a further fork if it is the one that the fork may share: the newest of its image. It
 * waits for pins_wait_ns, unless a newer pin is made or pins_idle_end() is called. The stored list does not say that,
 * so the next daemon deletes it at once.
 *
 * A user who makes clones and undefines them without their images adds rows without end. So pins_store() drops a user's
 * oldest rows above PINS_UNUSED_MAX that no VM has. Their pins stay for ever, as after a loss of these rows: an overlay
 * that a VM gets again joins the list again (pin_scan.h) and finds its pin.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_PINS_H
#define CAIRN_API_VM_PINS_H

#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct pins;
struct vm;
struct vm_host;

#define PINS_FILE "pins.json"
/* The list has at most so many rows of each user's overlays that no VM has, and as many of the user's pins that are due
 * in images that no VM has. */
#define PINS_UNUSED_MAX 1000
#define PINS_UNUSED_BYTES (256 * 1024) /* and of so many bytes of paths; all rows must fit a file of the store */

/* Load the list into host->pins. A damaged file is put aside. */
void pins_load(struct vm_host *host);
/* Whether overlays may be missing in the list: its file was missing or damaged, or an earlier daemon stored it as
 * incomplete, and this daemon has not read all overlays since (pin_scan.h). */
bool pins_are_incomplete(const struct vm_host *host);
/* Set whether the list has all overlays of this daemon's VMs. */
void pins_set_complete(struct vm_host *host, bool complete);
void pins_free(struct pins *p);
/* Drop the rows above PINS_UNUSED_MAX. Then store the list, unless a newer Cairn wrote the file. At return the file is
 * in place, even if the daemon is killed then; it is on stable storage before any work that is queued in the store
 * afterwards is done. e: NULL allowed. Returns 0; -errno, which is logged, too: then no overlay may be made on a
 * pin. */
int pins_store(struct vm_host *host, struct err *e);
/* Return whether the last pins_store() has failed: then store the list before an overlay of the list is used. */
bool pins_are_unsaved(const struct vm_host *host);

/* Note that `overlay` reads `image` at the pin. The paths are copied. A row of the same overlay is replaced. */
void pins_add(struct vm_host *host, const char *overlay, const char *image, const uint8_t id[VM_PIN_ID_BYTES]);
/* As pins_add(), for an overlay that is to read the pin `earlier` or the pin `made`. Call pins_resolve() when it is
 * known which. */
void pins_add_either(struct vm_host *host, const char *overlay, const char *image, const uint8_t earlier[VM_PIN_ID_BYTES],
	const uint8_t made[VM_PIN_ID_BYTES]);
/* Record the owner of the overlay's file, for PINS_UNUSED_MAX. Does nothing if the list does not have the overlay. */
void pins_set_owner(struct vm_host *host, const char *overlay, uid_t owner);
/* Note which pin the overlays read that were added with `made`. is_made: they read that pin; else they read the earlier
 * one, and `made` does not exist. Does not store the list. */
void pins_resolve(struct vm_host *host, const uint8_t made[VM_PIN_ID_BYTES], bool is_made);
/* Get the pin of the image that a further overlay may read: that of the last overlay which pins_add() or
 * pins_add_either() has added since the list was loaded; it may wait for that fork. Returns false if there is none. */
bool pins_newest(const struct vm_host *host, const char *image, uint8_t ret_id[VM_PIN_ID_BYTES]);
/* Note an overlay that the list may lack. If the list is incomplete or does not have the pin, further overlays of the
 * pin may be missing, so it is kept for ever. A row of another file with that path is replaced (pins_replace()).
 * Returns whether the list did not have the overlay. */
bool pins_add_found(struct vm_host *host, const char *overlay, const char *image, const uint8_t id[VM_PIN_ID_BYTES]);
/* Note that the file `copy` is a copy of `overlay`, of the same owner; does nothing if that is no overlay on a pin. */
void pins_copy(struct vm_host *host, const char *overlay, const char *copy);
/* Note that the overlay is gone, or reads no pin any more. Its pin is due for deletion if no other overlay reads it and
 * no unknown one may. Returns whether the list has changed. */
bool pins_remove(struct vm_host *host, const char *overlay);
/* Note that the overlay's path is another file's now. Nobody knows whether the overlay is elsewhere, so its pin is
 * never deleted. Returns whether the list has changed. */
bool pins_replace(struct vm_host *host, const char *overlay);
/* Record that the image was removed, and with it its pins that are due for deletion. Returns whether the list has
 * changed. */
bool pins_remove_image(struct vm_host *host, const char *image);
/* Return whether the file reads its backing file at a pin, so that the backing file may be written. */
bool pins_has_overlay(const struct vm_host *host, const char *path);
/* Return whether there is such a file. */
bool pins_has_any(const struct vm_host *host);
/* The number of overlays that read a pin, or may read it (pins_add_either()); 0: the pin is due for deletion. */
struct pin_use {
	uint8_t id[VM_PIN_ID_BYTES];
	unsigned overlays;
};
/* List the image's pins that overlays read or that are due for deletion. *ret: owned by the caller (free()). Returns
 * their number. */
size_t pins_of_image(const struct vm_host *host, const char *image, struct pin_use **ret);
/* Whether the list has a pin of the image that an overlay reads, or that is due for deletion and does not wait. */
bool pins_has_image(const struct vm_host *host, const char *path);

/* Get the pin of the image that waits for a further fork. Returns false if there is none. */
bool pins_idle(const struct vm_host *host, const char *image, uint8_t ret_id[VM_PIN_ID_BYTES]);
/* Let no pin of the image wait. Those that were due are to be deleted now. */
void pins_idle_end(struct vm_host *host, const char *image);
/* The time (loop_now_ns()) when the first pin has waited long enough; 0: none waits. */
uint64_t pins_idle_until(const struct vm_host *host);
/* Whether the list has a pin that is due for deletion, does not wait, and that no VM's process was asked to delete. */
bool pins_are_due(const struct vm_host *host);
/* Return whether `by`'s process was asked to delete pins and has not answered. */
bool pins_are_asked(const struct vm_host *host, const struct vm *by);
/* Get up to `max` ids of the image's pins that are due for deletion and do not wait, and note that `by`'s process is
 * asked to delete them: pins_answered() has to follow. Returns their number. */
unsigned pins_ask(struct vm_host *host, const char *image, const struct vm *by, uint8_t (*ret_ids)[VM_PIN_ID_BYTES],
	unsigned max);
/* Handle the answer of `by`'s process to pins_ask(). deleted: remove the rows of these pins and store the list; else
 * the pins are due again. */
void pins_answered(struct vm_host *host, const struct vm *by, bool deleted);

#endif
