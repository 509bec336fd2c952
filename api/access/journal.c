#include "api/access/journal.h"
#include "api/wire/json.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIELDS_BYTES 5120 /* a line has at most 4 KiB */

void journal_open(struct journal *j, const char *what, const char *path)
{
	*j = (struct journal){ .at.sun_family = AF_UNIX, .what = what, .fd = -1 };
	if (!path || !*path || strlen(path) >= sizeof(j->at.sun_path))
		return;
	snprintf(j->at.sun_path, sizeof(j->at.sun_path), "%s", path);
	j->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (j->fd < 0)
		log_warn("journal", "no %s go to the journal: %s", what, strerror(errno));
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
		log_warn("journal", "the journal takes no %s: %s", j->what, strerror(error));
}

/* n: length of the fields, as snprintf() counts it. The socket is not connected: a journal that was restarted has
 * another one at the same path. */
static void fields_send(struct journal *j, const char *fields, int n)
{
	if (n < 0 || n >= FIELDS_BYTES) {
		lost_note(j, EMSGSIZE);
		return;
	}
	if (sendto(j->fd, fields, (size_t)n, MSG_NOSIGNAL, (const struct sockaddr *)&j->at, sizeof(j->at)) < 0) {
		lost_note(j, errno);
		return;
	}
	if (j->lost)
		log_info("journal", "the journal takes %s again; %llu are not there", j->what, (unsigned long long)j->lost);
	j->lost = 0;
}

void journal_send(struct journal *j, const char *text, int64_t uid)
{
	char fields[FIELDS_BYTES], client[48] = "";

	if (j->fd < 0)
		return;
	if (uid >= 0)
		snprintf(client, sizeof(client), "CAIRN_AUDIT_UID=%lld\n", (long long)uid);
	fields_send(j, fields, snprintf(fields, sizeof(fields), "PRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=cairnd-audit\n%sMESSAGE=%s\n", client, text));
}

void journal_send_event(struct journal *j, const char *vm, const char *uuid, const char *event, struct json_object *data)
{
	char fields[FIELDS_BYTES];

	if (j->fd < 0)
		return;
	fields_send(j, fields, snprintf(fields, sizeof(fields),
		"PRIORITY=6\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=cairnd\nCAIRN_VM=%s\nCAIRN_VM_UUID=%s\nCAIRN_EVENT=%s\nMESSAGE=VM '%s': %s %.4000s\n",
		vm, uuid, event, vm, event, json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN)));
}
