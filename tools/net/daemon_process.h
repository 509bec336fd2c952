/* daemon_process: a process that remains after cairn-net for one network: dnsmasq, cairn-dns. An argument of it has the
 * network's mark (struct network, config), and a file has its number. */
#ifndef CAIRN_TOOLS_NET_DAEMON_PROCESS_H
#define CAIRN_TOOLS_NET_DAEMON_PROCESS_H

#include <stddef.h>
#include <sys/types.h>

struct err;
struct request;

#define PATH_BYTES 1200

struct request_path {
	char text[PATH_BYTES];
};

/* The path of a file in the network's folder. Returns the text in buf. */
const char *request_path(const struct request *req, const char *file, struct request_path *buf);
/* Write a file of the network's folder, unless it has this text. Returns 1 if it was written; 0; -errno with a
 * sentence. The file is replaced at once, without a sync: every start writes it. */
int request_text_write(const struct request *req, const char *name, const char *text, size_t len, struct err *e);

struct daemon_process {
	const char *program; /* its first argument */
	const char *file; /* with its number */
};

/* Find the running process. Returns 0 if there is none. */
pid_t daemon_process_find(const struct daemon_process *p, const struct request *req);
/* Look for it among all processes. */
pid_t daemon_process_search(const struct daemon_process *p, const struct request *req);
/* Note its number; 0: it is about to start. Returns 0; -errno with a sentence. */
int daemon_process_note(const struct daemon_process *p, const struct request *req, pid_t pid, struct err *e);
/* Stop it, and also a process that a killed cairn-net has left. Returns the process id; 0: none ran; -errno with a
 * sentence. */
int daemon_process_stop(const struct daemon_process *p, const struct request *req, struct err *e);

#endif
