/* guest_agent: commands of QEMU's guest agent, sent through the daemon. The answers come from the guest and are not
 * trusted. */
#ifndef CAIRN_TOOLS_GUEST_AGENT_H
#define CAIRN_TOOLS_GUEST_AGENT_H

#include <stdbool.h>

struct cli;
struct err;
struct json_object;

#define GUEST_AGENT_TIMEOUT_S 5
#define GUEST_AGENT_TIMEOUT_MAX_S 120

/* Run a command, and wait for its answer.
 * command: {"execute", "arguments"}; taken. looks: it is one of vm-agent-query's commands.
 * ret_answer: the whole answer, with its texts as they came; owned by the caller.
 * Returns 0; -errno with a sentence. */
int guest_agent_ask(struct cli *c, const char *vm, struct json_object *command, bool looks, unsigned timeout_s,
	struct json_object **ret_answer, struct err *e);
/* Run a command, and return only the member "return" of its answer. args: taken; NULL: none. */
int guest_agent_call(struct cli *c, const char *vm, const char *name, struct json_object *args, bool looks, unsigned timeout_s,
	struct json_object **ret_v, struct err *e);

/* Set *e to: the agent's answer does not have the form that the protocol says. Returns -EPROTO. */
int guest_agent_malformed(const char *name, struct err *e);

#endif
