/* Messages about the VM's screen and its keyboard. */
#include "vmm/control_impl.h"
#include "base/display.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_screen.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
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

/* On a thread of its own: the file may be slow, and the worker may be busy for long. */
static void screenshot_run(struct work *w)
{
	struct screenshot *s = container_of(w, struct screenshot, work);

	s->r = machine_screenshot(vm_machine(s->control->vm), s->format, s->fd, &s->e);
	close(s->fd);
}

static void screenshot_done(struct work *w)
{
	struct screenshot *s = container_of(w, struct screenshot, work);

	control_screenshot_end(s->control);
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
	if (c->screenshot)
		return err_set(e, -EBUSY, ERR_BUSY, "another screenshot of the VM is being written; try again afterwards");
	s = calloc(1, sizeof(*s));
	c->screenshot = s ? worker_new(&vm_machine(c->vm)->kvm, "screenshot") : NULL;
	r = c->screenshot ? worker_start(c->screenshot, e) : err_set_errno(e, -ENOMEM, "screenshot");
	if (r < 0) {
		control_screenshot_end(c);
		free(s);
		return r;
	}
	*s = (struct screenshot){ .work = { .run = screenshot_run, .done = screenshot_done }, .control = c, .seq = m->head.seq,
		.format = want->format, .fd = m->fds[0] };
	m->nfds = 0;
	worker_submit(c->screenshot, c->loop, &s->work);
	return LATER;
}

void control_screenshot_end(struct control *c)
{
	if (!c)
		return;
	worker_free(c->screenshot);
	c->screenshot = NULL;
}

/* ---- keys ---- */

#define KEY_REQUESTS_MAX 16

struct key_request {
	struct key_request *next;
	uint64_t seq;
	bool forgotten; /* the client has gone */
	struct vm_keys keys;
};

static void keys_press(struct control *c)
{
	const struct vm_keys *k = &c->keys->keys;

	for (unsigned i = 0; i < k->n; i++)
		machine_key(vm_machine(c->vm), k->codes[i], true);
	loop_timer_arm(c->keys_timer, loop_now_ns() + k->hold_ms * 1000000ULL);
}

/* Release the keys of the first request, answer it, and begin the next one. */
static void keys_release(void *opaque)
{
	struct control *c = opaque;
	struct key_request *q = c->keys;

	for (unsigned i = q->keys.n; i; i--)
		machine_key(vm_machine(c->vm), q->keys.codes[i - 1], false);
	c->keys = q->next;
	if (!q->forgotten)
		control_reply(c, q->seq, 0, NULL);
	free(q);
	if (c->keys)
		keys_press(c);
}

static int keys_check(struct control *c, const struct vm_keys *k, struct err *e)
{
	if (!k->n || k->n > VM_KEYS_MAX || k->hold_ms > VM_KEYS_HOLD_MAX_MS)
		return err_set(e, -EINVAL, ERR_INVALID, "1 to %d keys may be held for at most %d ms", VM_KEYS_MAX, VM_KEYS_HOLD_MAX_MS);
	if (!vm_machine(c->vm)->screen)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has no screen, and so no keyboard");
	for (unsigned i = 0; i < k->n; i++)
		if (!k->codes[i] || k->codes[i] > INPUT_KEY_MAX)
			return err_set(e, -EINVAL, ERR_INVALID, "the keyboard has no key %u", k->codes[i]);
	return c->keys_timer ? 0 : loop_timer_new(c->loop, keys_release, c, &c->keys_timer);
}

int control_send_keys(struct control *c, struct channel_msg *m, struct err *e)
{
	struct key_request **end = &c->keys, *q;
	int r = keys_check(c, m->body, e);
	unsigned n = 0;

	if (r < 0)
		return r;
	for (; *end; end = &(*end)->next)
		n++;
	if (n == KEY_REQUESTS_MAX)
		return err_set(e, -EBUSY, ERR_BUSY, "%d requests to send keys wait already; try again later", KEY_REQUESTS_MAX);
	q = calloc(1, sizeof(*q));
	if (!q)
		return err_set_errno(e, -ENOMEM, "keys");
	q->seq = m->head.seq;
	memcpy(&q->keys, m->body, sizeof(q->keys));
	*end = q;
	if (!n)
		keys_press(c);
	return LATER;
}

/* ---- other input ---- */

static bool axis_ok(int32_t v)
{
	return v >= -1 && v < VM_INPUT_AXIS;
}

int control_input(struct control *c, struct channel_msg *m, struct err *e)
{
	const struct vm_input *in = m->body;
	struct machine *machine = vm_machine(c->vm);

	if (!machine->screen)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has no screen, and so neither keyboard nor pointer");
	if (in->n > VM_INPUT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "at most %d events at once", VM_INPUT_MAX);
	for (unsigned i = 0; i < in->n; i++) {
		const struct input_event *ev = &in->events[i];

		if (ev->kind == INPUT_POINT ? !axis_ok(ev->x) || !axis_ok(ev->y) : !input_event_ok(ev))
			return err_set(e, -EINVAL, ERR_INVALID, "event %u has a value out of range", i);
		if (ev->kind == INPUT_POINT && (ev->x < 0 || ev->y < 0) && !machine_has_tablet(machine))
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the guest has no driver for a tablet, so its mouse needs both coordinates");
	}
	for (unsigned i = 0; i < in->n; i++) {
		if (in->events[i].kind == INPUT_POINT)
			machine_point(machine, in->events[i].x, in->events[i].y);
		else
			machine_input(machine, &in->events[i]);
	}
	return 0;
}

void control_keys_abandon(struct control *c)
{
	for (struct key_request *q = c->keys; q; q = q->next)
		q->forgotten = true;
}

void control_keys_free(struct control *c)
{
	struct key_request *q;

	while ((q = c->keys)) {
		c->keys = q->next;
		free(q);
	}
	loop_timer_free(c->keys_timer);
	c->keys_timer = NULL;
}
