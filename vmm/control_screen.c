/* Messages about the VM's screen. */
#include "vmm/control_impl.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/machine/machine_screen.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct screenshot {
	struct work work;
	struct control *control;
	uint64_t seq;
	unsigned format;
	int fd; /* owned */
	int r;
	struct err e;
};

/* On the worker's thread, because the file may be slow. */
static void screenshot_run(struct work *w)
{
	struct screenshot *s = container_of(w, struct screenshot, work);

	s->r = machine_screenshot(vm_machine(s->control->vm), s->format, s->fd, &s->e);
	close(s->fd);
}

static void screenshot_done(struct work *w)
{
	struct screenshot *s = container_of(w, struct screenshot, work);

	control_reply(s->control, s->seq, s->r, &s->e);
	free(s);
}

int control_screenshot(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_screenshot *want = m->body;
	struct screenshot *s;
	int r;

	if (!m->nfds || want->format >= VM_IMAGE_FORMATS)
		return err_set(e, -EINVAL, ERR_INVALID, "a screenshot needs a file and a known format");
	r = worker_start(c->worker, e);
	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set_errno(e, -ENOMEM, "screenshot");
	*s = (struct screenshot){ .work = { .run = screenshot_run, .done = screenshot_done }, .control = c, .seq = m->head.seq,
		.format = want->format, .fd = m->fds[0] };
	m->nfds = 0;
	worker_submit(c->worker, c->loop, &s->work);
	return LATER;
}
