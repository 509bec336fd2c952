/* cairn-share: serves a folder of the host to one guest. It is started with the VM, and ends with the VM's process,
 * from which it gets the guest's FUSE requests (base/share_link.h). It runs with the rights of the user who added the
 * folder to the definition, and drops all rights except those to the files beneath it (sandbox.h). Neither the guest
 * nor the VM's process is trusted. */
#include "base/err.h"
#include "base/log.h"
#include "base/program.h"
#include "base/share_link.h"
#include "tools/share/sandbox.h"
#include "tools/share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINK_FD 3
#define FOLDER_FD 4

struct message {
	struct share_header head;
	alignas(8) uint8_t fuse[SHARE_FUSE_MAX];
};

/* Serve until the VM's process ends. Returns 0 or -errno. */
static int serve(struct share *s)
{
	static struct message in, out;

	for (;;) {
		ssize_t n = recv(LINK_FD, &in, sizeof(in), 0);
		size_t bytes;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		if ((size_t)n < sizeof(in.head))
			return -EPROTO;
		out.head = in.head;
		bytes = share_answer(s, in.fuse, (size_t)n - sizeof(in.head), out.fuse);
		while (send(LINK_FD, &out, sizeof(out.head) + bytes, MSG_NOSIGNAL) < 0)
			if (errno != EINTR)
				return errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
	}
}

static int begin(struct share *s, bool read_only, struct err *e)
{
	int r = program_begin(e);
	uint32_t nodes, handles;

	if (r < 0)
		return r;
	umask(0); /* the guest's kernel has applied its own */
	s->read_only = read_only;
	s->proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->proc < 0)
		return err_set_errno(e, -errno, "/proc/self/fd");
	r = share_limit_files(&nodes, &handles, e);
	if (!r)
		r = share_sandbox(FOLDER_FD, read_only, e);
	if (r < 0)
		return r;
	r = nodes_init(&s->nodes, FOLDER_FD, nodes, handles);
	return r < 0 ? err_set_errno(e, r, "the folder") : 0;
}

int main(int argc, char **argv)
{
	static struct share s;
	struct err e;
	int r;

	if (argc != 3 || (strcmp(argv[2], "ro") != 0 && strcmp(argv[2], "rw") != 0)) {
		fputs("cairn-share is started with a VM whose definition has \"shares\"\nusage: cairn-share NAME ro|rw\n", stderr);
		return 2;
	}
	clearenv();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN); /* this process ends with the VM */
	signal(SIGINT, SIG_IGN);
	log_set_owner(argv[1]);
	r = begin(&s, !strcmp(argv[2], "ro"), &e);
	if (r < 0) {
		log_error("share", "%s", e.msg);
		return 1;
	}
	r = serve(&s);
	if (r < 0)
		log_error("share", "the connection to the VM's process is lost: %s", strerror(-r));
	return r < 0;
}
