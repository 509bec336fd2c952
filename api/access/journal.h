/* journal: sends copies of audit lines, events of VMs, and the daemon's log to the systemd journal of this host, by its
 * native protocol (systemd's "JOURNAL_NATIVE_PROTOCOL"). A journal that is full, stopped or missing delays nothing:
 * copies and events that it does not take are lost.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_JOURNAL_H
#define CAIRN_API_ACCESS_JOURNAL_H

#include <stdint.h>
#include <sys/un.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

struct json_object;

struct journal {
	struct sockaddr_un at;
	const char *what; /* "audit lines", say; static */
	int fd; /* -1: no copies are sent */
	uint64_t lost; /* copies since the last one that the journal took */
};

/* Prepare to send. what: static text for the log. path: of the journal's socket, which need not exist yet; NULL, empty
 * or too long: send nothing. */
void journal_open(struct journal *j, const char *what, const char *path);
void journal_close(struct journal *j);
/* Send a copy of a line. text, vm: have no newline. uid: of the client; -1: none. vm: name of the VM that the line is
 * about, for the field CAIRN_VM; NULL or empty: none. Never waits. */
void journal_send(struct journal *j, const char *text, int64_t uid, const char *vm);
/* Send an event of a VM, with the fields CAIRN_VM, CAIRN_VM_UUID and CAIRN_EVENT. data: printed as JSON and
 * cut at 4 KB, unless nothing is sent. Never waits. */
void journal_send_event(struct journal *j, const char *vm, const char *uuid, const char *event, struct json_object *data);

/* If standard error is the journal's (JOURNAL_STREAM), send each line of this process's log as an entry of its own,
 * with PRIORITY and, if the line is about a VM (LOG_VM), CAIRN_VM: a line on standard error has no fields. An entry
 * that the journal does not take at once goes to standard error. j: lives as long as the process. path: as for
 * journal_open(). Call it before there are threads. */
void journal_take_log(struct journal *j, const char *path);

#endif
