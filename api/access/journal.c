#include "api/access/journal.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIELDS_BYTES 5120 /* a line has at most 4 KiB */

void journal_open(struct journal *j, const char *path)
{
	*j = (struct journal){ .at.sun_family = AF_UNIX, .fd = -1 };
	if (!path || !*path || strlen(path) >= sizeof(j->at.sun_path))
		return;
	snprintf(j->at.sun_path, sizeof(j->at.sun_path), "%s", path);
	j->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (j->fd < 0)
		log_warn("audit", "no copies go to the journal: %s", strerror(errno));
}

void journal_close(struct journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	j->fd = -1;
}

/* Count a lost copy. Most hosts without a journal have no socket; that is no fault. */
static void lost_note(struct journal *j, int error)
{
	if (!j->lost++ && error != ENOENT)
		log_warn("audit", "the journal takes no copies of audit lines: %s", strerror(error));
}

/* The socket is not connected: a journal that was restarted has another one at the same path. */
void journal_send(struct journal *j, const char *text, int64_t uid)
{
	char fields[FIELDS_BYTES], client[48] = "";
	int n;

	if (j->fd < 0)
		return;
	if (uid >= 0)
		snprintf(client, sizeof(client), "CAIRN_AUDIT_UID=%lld\n", (long long)uid);
	n = snprintf(fields, sizeof(fields), "PRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=cairnd-audit\n%sMESSAGE=%s\n",
		client, text);
	if (n < 0 || (size_t)n >= sizeof(fields)) {
		lost_note(j, EMSGSIZE);
		return;
	}
	if (sendto(j->fd, fields, (size_t)n, MSG_NOSIGNAL, (const struct sockaddr *)&j->at, sizeof(j->at)) < 0) {
		lost_note(j, errno);
		return;
	}
	if (j->lost)
		log_info("audit", "the journal takes copies of audit lines again; %llu are not there", (unsigned long long)j->lost);
	j->lost = 0;
}
