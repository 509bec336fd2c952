#include "api/access/journal.h"
#include "api/wire/json.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
		log_info("journal", "the journal takes %s again; it lacks %llu of them", j->what, (unsigned long long)j->lost);
	j->lost = 0;
}

void journal_send(struct journal *j, const char *text, int64_t uid, const char *vm)
{
	bool has_vm = vm && *vm;
	char fields[FIELDS_BYTES], client[48] = "";

	if (j->fd < 0)
		return;
	if (uid >= 0)
		snprintf(client, sizeof(client), "CAIRN_AUDIT_UID=%lld\n", (long long)uid);
	fields_send(j, fields, snprintf(fields, sizeof(fields), "PRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=cairnd-audit\n%s%s%s%sMESSAGE=%s\n", client,
		has_vm ? "CAIRN_VM=" : "", has_vm ? vm : "", has_vm ? "\n" : "", text));
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

/* Whether standard error is the socket or file that the service manager has named in JOURNAL_STREAM: "DEVICE:INODE". */
static bool is_stderr_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && !fstat(STDERR_FILENO, &st) && st.st_dev == device &&
		st.st_ino == inode;
}

/* Any thread may call it: it only reads j. */
static bool log_taken(void *opaque, enum log_level level, const char *vm, const char *text)
{
	static const int priorities[] = { [LOG_LEVEL_ERROR] = 3, [LOG_LEVEL_WARN] = 4, [LOG_LEVEL_INFO] = 6, [LOG_LEVEL_DEBUG] = 7,
		[LOG_LEVEL_TRACE] = 7 };
	const struct journal *j = opaque;
	char fields[FIELDS_BYTES];
	int n = snprintf(fields, sizeof(fields), "PRIORITY=%d\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=cairnd\n%s%s%sMESSAGE=%s\n",
		priorities[level], vm ? "CAIRN_VM=" : "", vm ? vm : "", vm ? "\n" : "", text);

	return sendto(j->fd, fields, (size_t)n, MSG_NOSIGNAL, (const struct sockaddr *)&j->at, sizeof(j->at)) >= 0;
}

void journal_take_log(struct journal *j, const char *path)
{
	journal_open(j, "lines of the log", is_stderr_journal() ? path : NULL);
	if (j->fd >= 0)
		log_set_sink(&(struct log_sink){ log_taken, j });
}
