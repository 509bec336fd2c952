/* journal: sends copies of audit lines to the systemd journal of this host, by its native protocol (systemd's
 * "JOURNAL_NATIVE_PROTOCOL"). A journal that is full, stopped or missing delays nothing: its copies are lost.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_JOURNAL_H
#define CAIRN_API_ACCESS_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

struct journal {
	struct sockaddr_un at;
	int fd; /* -1: no copies are sent */
	uint64_t lost; /* copies since the last one that the journal took */
};

/* Prepare to send. path: of the journal's socket, which need not exist yet; NULL, empty or too long: send nothing. */
void journal_open(struct journal *j, const char *path);
void journal_close(struct journal *j);
/* Send a copy of a line. text: has no newline. uid: of the client; -1: none. Never waits. */
void journal_send(struct journal *j, const char *text, int64_t uid);

#endif
