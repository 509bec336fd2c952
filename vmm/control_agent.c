/* The daemon's requests to the guest agent. */
#include "base/err.h"
#include "base/util.h"
#include "vmm/agent/agent.h"
#include "vmm/control_impl.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_consoles.h"
#include "vmm/machine/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct action_request {
	struct control *control;
	uint64_t seq;
	bool off; /* the command is a shutdown */
};

static void action_done(void *opaque, int r, const struct err *e)
{
	struct action_request s = *(struct action_request *)opaque;

	free(opaque);
	if (r < 0 && s.off)
		vm_set_off_asked(s.control->vm, false);
	control_reply(s.control, s.seq, r, e);
}

static int agent_check(const struct control *c, struct err *e)
{
	int r = vm_check_agent(c->vm, e);

	if (r < 0)
		return r;
	if (vm_phase(c->vm) != VM_PHASE_RUNNING)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "the guest agent cannot answer while the "
			"VM does not run; resume it first");
	return 0;
}

static int action_begin(struct control *c, const struct vm_agent *want, struct action_request *s, struct err *e)
{
	struct agent *a = vm_machine(c->vm)->agent;
	int r;

	if (want->action == VM_AGENT_TELL)
		machine_consoles_print(vm_machine(c->vm), want->text);
	r = agent_check(c, e);
	if (r < 0)
		return r;
	if (want->action == VM_AGENT_TELL)
		return agent_tell(a, want->text, action_done, s, e);
	s->off = want->action == VM_AGENT_SHUTDOWN;
	r = agent_shutdown(a, want->action == VM_AGENT_REBOOT, action_done, s, e);
	if (!r && want->action == VM_AGENT_SHUTDOWN)
		vm_set_off_asked(c->vm, true);
	if (!r)
		vm_shutdown_begun(c->vm);
	return r;
}

int control_agent(struct control *c, struct channel_msg *m, struct err *e)
{
	struct vm_agent *want = m->body;
	struct action_request *s;
	int r;

	TERMINATE(want->text);
	if (want->action > VM_AGENT_REBOOT)
		return err_set(e, -EINVAL, ERR_INVALID, "unknown guest agent command");
	s = malloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = (struct action_request){ c, m->head.seq, false };
	r = action_begin(c, want, s, e);
	if (r < 0)
		free(s);
	return r < 0 ? r : LATER;
}

static void addresses_done(void *opaque, int r, const struct err *e)
{
	struct control *c = opaque;
	unsigned n = c->looks.n;

	c->looks.under_way = false;
	c->looks.n = 0;
	for (unsigned i = 0; i < n; i++)
		if (r < 0)
			control_reply(c, c->looks.seqs[i], r, e);
		else
			control_send(c, VM_MSG_ADDRESS_LIST, c->looks.seqs[i], &c->addresses, sizeof(c->addresses));
}

int control_addresses(struct control *c, struct channel_msg *m, struct err *e)
{
	int r = agent_check(c, e);

	if (!r && c->looks.n == LOOKS_MAX)
		r = err_set(e, -EBUSY, ERR_BUSY, "too many clients wait for the guest agent; try "
			"again in a moment");
	if (!r && !c->looks.under_way) {
		r = agent_addresses(vm_machine(c->vm)->agent, &c->addresses, addresses_done, c, e);
		c->looks.under_way = r == 0;
	}
	if (r < 0)
		return r;
	c->looks.seqs[c->looks.n++] = m->head.seq;
	return LATER;
}

/* ---- commands of clients ---- */

struct asked {
	struct agent_command command;
	struct control *control;
	uint64_t seq;
};

static void asked_free(struct asked *s)
{
	if (s->command.fd >= 0)
		close(s->command.fd);
	free(s->command.text);
	free(s);
}

static void command_done(struct agent_command *x, int r, const struct err *e)
{
	struct asked *s = container_of(x, struct asked, command);
	struct vm_agent_answer answer = { .bytes = x->bytes };

	if (r < 0)
		control_reply(s->control, s->seq, r, e);
	else
		control_send(s->control, VM_MSG_AGENT_ANSWER, s->seq, &answer, sizeof(answer));
	asked_free(s);
}

/* Copy the command's text and add the newline. A text with a newline inside would be two commands. */
static int asked_new(const struct channel_msg *m, struct asked **ret_s, struct err *e)
{
	const struct vm_agent_command *want = m->body;
	size_t len = m->head.body_bytes - offsetof(struct vm_agent_command, text);
	struct asked *s;

	if (!m->nfds || !want->timeout_ms || want->timeout_ms > VM_AGENT_TIMEOUT_MAX_S * 1000 || memchr(want->text, '\n', len) ||
		memchr(want->text, 0, len))
		return err_set(e, -EINVAL, ERR_INVALID, "malformed command for the guest agent");
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->command = (struct agent_command){ .text = malloc(len + 2), .len = len + 1, .timeout_ns = want->timeout_ms * 1000000ULL,
		.fd = -1, .bytes_max = VM_AGENT_ANSWER_MAX, .done = command_done };
	if (!s->command.text) {
		asked_free(s);
		return -ENOMEM;
	}
	memcpy(s->command.text, want->text, len);
	memcpy(s->command.text + len, "\n", 2);
	*ret_s = s;
	return 0;
}

int control_agent_command(struct control *c, struct channel_msg *m, struct err *e)
{
	struct asked *s = NULL;
	int r = agent_check(c, e);

	if (!r)
		r = asked_new(m, &s, e);
	if (r < 0)
		return r;
	s->control = c;
	s->seq = m->head.seq;
	s->command.fd = m->fds[0];
	m->nfds = 0;
	r = agent_command(vm_machine(c->vm)->agent, &s->command, e);
	if (r < 0)
		asked_free(s);
	return r < 0 ? r : LATER;
}
