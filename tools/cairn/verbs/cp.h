/* cp: copies with cairn-agent (cp_agent.c). */
#ifndef CAIRN_TOOLS_VERBS_CP_H
#define CAIRN_TOOLS_VERBS_CP_H

struct cli;
struct err;

/* Copy a file or folder into the guest.
 * sock: of guest_session_connect(); borrowed. from: "-": standard input. there: path in the guest; if that is a folder,
 * the copy is called `name` in it. Returns 0; -errno with a sentence. */
int cp_agent_send(struct cli *c, int sock, const char *from, const char *there, const char *name, struct err *e);
/* Copy a file or folder out of the guest. to: the path to create or overwrite; "-": standard output. */
int cp_agent_receive(struct cli *c, int sock, const char *there, const char *to, struct err *e);

#endif
