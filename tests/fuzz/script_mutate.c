#include "tests/fuzz/fuzz_api.h"

#include "api/schema/schema.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LINES_MAX 64u

struct random {
	uint64_t x;
};

static uint64_t pick(struct random *r, uint64_t n)
{
	r->x ^= r->x << 13;
	r->x ^= r->x >> 7;
	r->x ^= r->x << 17;
	return (r->x * 0x2545f4914f6cdd1dULL >> 16) % n;
}

#define PICK(r, list) ((list)[pick((r), ARRAY_SIZE(list))])

static const char *const strings[] = { "a", "b", "hidden", "s1", "s2", "1", "vda", "hda", "job1", "job2", "viewer", "owner",
	"operator", "1h", "2d:all", "10%", "acpi", "agent", "paused", "running", "linked", "full", "raw", "qcow2", "/mnt/disk",
	"/mnt/kernel", "/mnt/new", "/mnt", "a-{n}", "", "x y", "\\u0000", "\\ud800", "\\u00e4", "%n", "../a", "*", "-1", "now+1",
	"info status", "info block", "savevm s1", "loadvm s1", "memory", "STOP", "auto,daily", "52:54:00:00:00:01",
	"00000000-0000-0000-0000-000000000000" };
static const char *const numbers[] = { "0", "1", "-1", "2", "3", "64", "65", "1000", "1001", "2147483647", "4294967296",
	"9223372036854775807", "-9223372036854775808", "18446744073709551615", "1e99", "0.5" };
static const char *const definitions[] = {
	"{\"name\":\"a\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/mnt/kernel\"}}",
	"{\"name\":\"a\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/mnt/kernel\"},\"disks\":[{\"path\":\"/mnt/disk\",\"format\":"
	"\"qcow2\"}],\"guest_agent\":true,\"watchdog\":{\"action\":\"dump\"}}",
	"{\"name\":\"b\",\"memory\":64,\"vcpus\":2,\"boot\":{\"kernel\":\"/mnt/kernel\",\"cmdline\":\"x\"},"
	"\"on_crash\":\"restart\"}",
};
/* Offsets in the messages of a VM process. */
static const unsigned short places[] = { 0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 24, offsetof(struct vm_event, device),
	offsetof(struct vm_event, detail), offsetof(struct vm_event, total), offsetof(struct vm_snapshots, list),
	offsetof(struct vm_snapshots, list) + offsetof(struct vm_snapshot_info, name),
	offsetof(struct vm_snapshots, list) + offsetof(struct vm_snapshot_info, tags), offsetof(struct vm_reply, msg),
	offsetof(struct vm_snapshot_done, left_out), offsetof(struct vm_snapshot_done, pause_ns),
	offsetof(struct vm_info, console_bytes), offsetof(struct vm_info, ndisks), offsetof(struct vm_info, agent),
	offsetof(struct vm_info, ninterfaces), offsetof(struct vm_info, disks), offsetof(struct vm_info, detail),
	offsetof(struct vm_snapshot_done, memory_tracking), offsetof(struct vm_snapshot_done, memory_tracking_reason) };
static const char *const bytes[] = { "00", "01", "02", "03", "04", "05", "07", "0b", "ff", "ffffffff", "ffffffffffffff7f", "0001",
	"61626300", "1b5b324a", "c328ff", "00000080", "7f", "20" };

/* ---- text ---- */

struct text {
	char buf[SCRIPT_INPUT_MAX];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, sizeof(t->buf) - t->len, fmt, ap);
	va_end(ap);
	t->len = MIN(t->len + (size_t)n, sizeof(t->buf) - 1);
}

static void value_add(struct text *t, struct random *r, enum field_type type)
{
	switch (pick(r, 12) ? field_type_plain(type) : (enum field_type)pick(r, FIELD_ANY + 1)) {
	case FIELD_INT:
		text_add(t, "%s", PICK(r, numbers));
		break;
	case FIELD_BOOL:
		text_add(t, "%s", pick(r, 2) ? "true" : "false");
		break;
	case FIELD_OBJECT:
		text_add(t, "%s", PICK(r, definitions));
		break;
	case FIELD_ARRAY:
		text_add(t, "[\"%s\",\"%s\"]", PICK(r, strings), PICK(r, strings));
		break;
	case FIELD_ANY:
		text_add(t, "null");
		break;
	default:
		text_add(t, "\"%s\"", pick(r, 3) ? strings[pick(r, 10)] : PICK(r, strings));
	}
}

static void arguments_add(struct text *t, struct random *r, const struct field *args)
{
	const char *comma = "";

	text_add(t, ",\"arguments\":{");
	for (const struct field *f = args; f && f->name; f++) {
		if (f->optional ? pick(r, 3) : !pick(r, 30))
			continue;
		text_add(t, "%s\"%s\":", comma, f->name);
		if (!strcmp(f->name, "vm") && pick(r, 8))
			text_add(t, "\"a\"");
		else
			value_add(t, r, f->type);
		comma = ",";
	}
	text_add(t, "}");
}

static void command_add(struct text *t, struct random *r)
{
	enum dialect d = pick(r, 4) ? DIALECT_DAEMON : DIALECT_QEMU;
	const struct command *c;
	size_t n = 0;
	bool stranger = d == DIALECT_DAEMON && !pick(r, 8);

	while (schema_command(d, n))
		n++;
	c = schema_command(d, pick(r, n));
	text_add(t, "%c {\"execute\":\"%s\"", d == DIALECT_QEMU ? 'q' : stranger ? 'u' : c->flags & COMMAND_TAKES_FD ? 'D' : 'd', c->name);
	if (c->args)
		arguments_add(t, r, c->args);
	if (!pick(r, 8))
		text_add(t, ",\"id\":%s", PICK(r, numbers));
	text_add(t, "}\n");
}

static void strange_add(struct text *t, struct random *r)
{
	static const unsigned char types[] = { VM_MSG_REPLY, VM_MSG_INFO, VM_MSG_SNAPSHOTS, VM_MSG_SNAPSHOT_DONE, VM_MSG_SPACES,
		VM_MSG_EVENT, 0, 1, 33, 99 };
	bool event = pick(r, 2);

	text_add(t, "%c", event ? 'e' : 'a');
	if (event)
		text_add(t, " 0:%02x", (unsigned)pick(r, VM_EVENT_KIND_COUNT + 1));
	if (!pick(r, 6))
		text_add(t, " %u", PICK(r, types));
	for (uint64_t n = pick(r, 4); n; n--)
		text_add(t, " %u:%s", PICK(r, places), PICK(r, bytes));
	if (!pick(r, 12))
		text_add(t, " cut=%u", (unsigned)pick(r, 2000));
	if (!event && !pick(r, 12))
		text_add(t, " -");
	text_add(t, "\n");
}

static void line_add(struct text *t, struct random *r)
{
	uint64_t what = pick(r, 16);

	if (what < 10)
		command_add(t, r);
	else if (what < 14)
		strange_add(t, r);
	else
		text_add(t, what == 14 ? "x\n" : "r\n");
}

/* ---- changes ---- */

/* Replace a quoted string or a number by another. */
static size_t word_change(struct random *r, char *line, size_t len, size_t cap)
{
	size_t at = pick(r, len), end;
	const char *with;
	bool quoted;

	while (at < len && line[at] != '"' && !isdigit((unsigned char)line[at]))
		at++;
	if (at == len)
		return len;
	quoted = line[at] == '"';
	at += quoted;
	for (end = at; end < len && line[end] != '\n' && (quoted ? line[end] != '"' : isdigit((unsigned char)line[end]));)
		end++;
	with = quoted ? PICK(r, strings) : PICK(r, numbers);
	if (len - (end - at) + strlen(with) > cap)
		return len;
	memmove(line + at + strlen(with), line + end, len - end);
	memcpy(line + at, with, strlen(with));
	return len - (end - at) + strlen(with);
}

/* Find the start of each line; the entry after the last is the end of the text. */
static unsigned lines_find(const char *text, size_t len, size_t starts[LINES_MAX + 1])
{
	unsigned n = 0;

	for (size_t at = 0; at < len && n < LINES_MAX;) {
		const char *end = memchr(text + at, '\n', len - at);

		starts[n++] = at;
		at = end ? (size_t)(end - text) + 1 : len;
		starts[n] = at;
	}
	return n;
}

static size_t text_insert(char *text, size_t len, size_t cap, size_t at, const char *what, size_t n)
{
	if (len + n > cap)
		return len;
	memmove(text + at + n, text + at, len - at);
	memcpy(text + at, what, n);
	return len + n;
}

size_t script_mutate(uint8_t *input, size_t len, size_t cap, unsigned seed)
{
	struct random r = { seed * 0x9e3779b97f4a7c15ULL + 1 };
	static struct text t;
	size_t starts[LINES_MAX + 1] = { 0 }, i, n;
	char *text = (char *)input;

	for (uint64_t k = 1 + pick(&r, 3); k; k--) {
		n = lines_find(text, len, starts);
		i = n ? pick(&r, n) : 0;
		t.len = 0;
		switch (n > 1 ? pick(&r, 8) : 0) {
		case 4: /* leave the line out */
			memmove(text + starts[i], text + starts[i + 1], len - starts[i + 1]);
			len -= starts[i + 1] - starts[i];
			break;
		case 5: /* repeat the line */
			text_add(&t, "%.*s", (int)(starts[i + 1] - starts[i]), text + starts[i]);
			len = text_insert(text, len, cap, starts[pick(&r, n)], t.buf, t.len);
			break;
		case 6:
		case 7:
			len = word_change(&r, text, len, cap);
			break;
		default:
			line_add(&t, &r);
			if (len && text[len - 1] != '\n')
				len = text_insert(text, len, cap, len, "\n", 1);
			len = text_insert(text, len, cap, n && pick(&r, 2) ? starts[i] : len, t.buf, t.len);
		}
	}
	return len;
}
