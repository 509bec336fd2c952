/* run_status: --status-fd of `cairn run`: a line of JSON that distinguishes the command's exit status from Cairn's
 * own. */
#ifndef CAIRN_TOOLS_VERBS_RUN_STATUS_H
#define CAIRN_TOOLS_VERBS_RUN_STATUS_H

struct cli;
struct exec_outcome;

/* Parse --status-fd, and keep the descriptor from other programs. Returns 0 and *ret_fd, -1 without the option; a usage
 * error's status. */
int run_status_open(struct cli *c, int *ret_fd);
/* Write the line. fd: -1: do nothing. whose: "command" or "vm": whose status it is, if not Cairn's own. */
void run_status_write(int fd, int status, const char *whose, const struct exec_outcome *o);

#endif
