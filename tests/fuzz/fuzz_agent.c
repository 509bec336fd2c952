/* fuzz_agent: libFuzzer target for what a guest's agent, or whatever is in its place, sends to the host. An input is a
 * sequence of steps: an answer's bytes, a request of the host, a change of the port. The parsers also get the whole
 * input as one line. */
#include "tests/fuzz/fuzz_api.h"

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/agent/agent.h"
#include "vmm/vm_msg.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* State of the requests in flight; each done() is called at most once. */
struct asked {
	struct vm_addresses addresses;
	unsigned open;
};

static void answered(void *opaque, int r, const struct err *e)
{
	struct asked *x = opaque;

	must(x->open && (!r || e->msg[0]));
	x->open--;
}

/* The commands of one input, with a common file. */
#define COMMANDS 4
#define COMMAND_BYTES_MAX 6000

static int answer_fd = -1;

static void command_done(struct agent_command *x, int r, const struct err *e)
{
	must(x->fd == answer_fd && x->bytes <= COMMAND_BYTES_MAX && (!r || e->msg[0]));
	x->fd = -1;
}

/* Queue a command, if one of the input's is free. */
static void command_ask(struct agent *a, struct agent_command *list)
{
	struct err e;

	for (size_t i = 0; i < COMMANDS; i++) {
		if (list[i].fd >= 0)
			continue;
		list[i] = (struct agent_command){ .text = (char *)"{}\n", .len = 3, .timeout_ns = 1000000000, .fd = answer_fd,
			.bytes_max = COMMAND_BYTES_MAX, .done = command_done };
		must(!agent_command(a, &list[i], &e));
		return;
	}
}

static void request(struct agent *a, unsigned which, struct asked *x)
{
	struct err e;
	int r = -1;

	switch (which) {
	case 0:
		r = agent_freeze(a, answered, x, &e);
		break;
	case 1:
		agent_thaw(a);
		break;
	case 2:
		r = agent_addresses(a, &x->addresses, answered, x, &e);
		break;
	case 3:
		r = agent_shutdown(a, false, answered, x, &e);
		break;
	case 4:
		r = agent_tell(a, "the host says so", answered, x, &e);
		break;
	case 5:
		agent_set_time(a);
		break;
	case 6:
		agent_port(a, true, false);
		break;
	default:
		agent_port(a, false, false);
		break;
	}
	x->open += !r;
}

/* Read what the host sends. Keeps the number of its last sync, which differs in each run, in *id. */
static void host_hear(int guest, long long *id)
{
	char said[4097], *at;
	ssize_t n;

	while ((n = read(guest, said, sizeof(said) - 1)) > 0) {
		said[n] = 0;
		at = strstr(said, "\"id\":");
		if (at)
			*id = atoll(at + 5);
	}
}

/* Answer the last sync, so that inputs reach what follows it. */
static void sync_answer(int guest, long long id)
{
	char text[64];

	must(snprintf(text, sizeof(text), "\xff{\"return\": %lld}\n", id) < (int)sizeof(text));
	must(write(guest, text, strlen(text)) > 0);
}

static void talk(const uint8_t *data, size_t len)
{
	struct asked x = { .open = 0 };
	struct agent_command commands[COMMANDS];
	struct loop *l;
	struct agent *a;
	long long id = 0;
	int pair[2];

	if (answer_fd < 0)
		answer_fd = memfd_create("answer", MFD_CLOEXEC);
	must(answer_fd >= 0);
	for (size_t i = 0; i < COMMANDS; i++)
		commands[i].fd = -1;
	must(!loop_new(16, &l, NULL));
	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
	must(!agent_new(l, pair[0], NULL, &a, NULL));
	agent_port(a, true, false);
	while (len) {
		size_t n = data[0] < 8 || data[0] >= 254 ? 0 : MIN((size_t)data[0] - 7, len - 1);

		if (data[0] == 255)
			command_ask(a, commands);
		else if (data[0] == 254)
			sync_answer(pair[1], id);
		else if (!n)
			request(a, data[0], &x);
		else if (write(pair[1], data + 1, n) < 0)
			break;
		data += n + 1;
		len -= n + 1;
		loop_run_once(l, 0);
		host_hear(pair[1], &id);
	}
	close(pair[1]);
	for (unsigned i = 0; i < 4; i++)
		loop_run_once(l, 0);
	agent_free(a);
	loop_free(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct vm_addresses addresses;
	struct agent_answer answer;
	char name[AGENT_HOSTNAME_MAX + 1], text[64];
	size_t n = MIN(len, sizeof(text) - 1);

	log_set_level(LOG_LEVEL_ERROR);
	agent_answer_parse((const char *)data, len, &answer);
	must(memchr(answer.desc, 0, sizeof(answer.desc)));
	agent_addresses_parse((const char *)data, len, &addresses);
	memcpy(text, data, n);
	text[n] = 0;
	agent_hostname(text, name);
	must(memchr(name, 0, sizeof(name)));
	talk(data, len);
	return 0;
}
