/* commit_ready: ends the commit of an active layer that a client of the QMP socket began. While its job is ready, the
 * guest's changes go to both images, until the client completes the job by a pivot to the lower one, or cancels it. A
 * ready job does not own its VM. It also ends when another client ends the copy (vm_copy.h), and when the VM's process
 * ends: the disk keeps its layers then. The daemon's end fails the job, and the process continues with both images.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_COMMIT_READY_H
#define CAIRN_API_JOBS_COMMIT_READY_H

struct call;
struct definition_layer;
struct err;
struct job;
struct vm;

extern const struct vm_observer commit_ready_observer;

/* Let the job of a commit be ready.
 * disk: its id. image: the path of the disk's image. base: the path of the layer that got all, with its format. */
void commit_ready(struct job *j, struct vm *vm, const char *disk, const char *image, const char *base, const char *format);
/* Continue with the lower image, in the VM and in its definition, and answer the call when the job is over. On an
 * error, answer with the reason; the commit is then ready again. */
void commit_ready_complete(struct call *c, struct job *j);
/* Keep the layers, and answer the call. The job succeeds. */
void commit_ready_leave(struct call *c, struct job *j);

#endif
