#include "base/agent_frame.h"
#include "base/bytes.h"

#include <errno.h>
#include <string.h>

/* Lengths of the data of each frame, and who sends it. */
static const struct {
	bool guest;
	uint32_t least, most;
} frames[AGENT_FRAME_TYPE_COUNT] = {
	[AGENT_FRAME_HELLO] = { true, AGENT_HELLO_BYTES, AGENT_HELLO_BYTES },
	[AGENT_FRAME_START] = { false, AGENT_START_BYTES + 3, AGENT_DATA_MAX },
	[AGENT_FRAME_STARTED] = { true, 4, 4 },
	[AGENT_FRAME_FAILED] = { true, 8, 8 },
	[AGENT_FRAME_STDIN] = { false, 0, AGENT_DATA_MAX },
	[AGENT_FRAME_STDOUT] = { true, 1, AGENT_DATA_MAX },
	[AGENT_FRAME_STDERR] = { true, 1, AGENT_DATA_MAX },
	[AGENT_FRAME_TAKEN] = { true, 4, 4 },
	[AGENT_FRAME_SIGNAL] = { false, 4, 4 },
	[AGENT_FRAME_SIZE] = { false, 4, 4 },
	[AGENT_FRAME_EXIT] = { true, 8, 8 },
	[AGENT_FRAME_RENEW] = { false, AGENT_RENEW_BYTES, AGENT_RENEW_BYTES + AGENT_NAME_MAX },
	[AGENT_FRAME_RENEWED] = { true, 4, 4 },
	[AGENT_FRAME_MOUNT] = { false, 4, AGENT_MOUNT_MAX },
};

void agent_header_put(uint8_t buf[AGENT_HEADER_BYTES], enum agent_frame_type type, size_t len)
{
	memset(buf, 0, AGENT_HEADER_BYTES);
	buf[0] = (uint8_t)type;
	store_le32(buf + 4, (uint32_t)len);
}

ssize_t agent_frame_parse(const uint8_t *buf, size_t len, bool from_guest, struct agent_frame *ret)
{
	uint32_t type, n;

	if (len < AGENT_HEADER_BYTES)
		return 0;
	type = load_le32(buf);
	n = load_le32(buf + 4);
	if (type >= AGENT_FRAME_TYPE_COUNT || !frames[type].most || frames[type].guest != from_guest || n < frames[type].least ||
		n > frames[type].most)
		return -EPROTO;
	if (len - AGENT_HEADER_BYTES < n)
		return 0;
	*ret = (struct agent_frame){ .type = (enum agent_frame_type)type, .data = buf + AGENT_HEADER_BYTES, .len = n };
	return (ssize_t)(AGENT_HEADER_BYTES + n);
}

/* ---- order ---- */

static int running_check(struct agent_order *o, const struct agent_frame *f)
{
	switch (f->type) {
	case AGENT_FRAME_STDOUT:
		return 0;
	case AGENT_FRAME_STDERR:
		return o->terminal ? -EPROTO : 0;
	case AGENT_FRAME_TAKEN:
		if (load_le32(f->data) > o->in_flight)
			return -EPROTO;
		o->in_flight -= load_le32(f->data);
		return 0;
	case AGENT_FRAME_EXIT:
		o->step++;
		return load_le32(f->data) > 255 || load_le32(f->data + 4) > 127 ? -EPROTO : 0;
	default:
		return -EPROTO;
	}
}

int agent_order_check(struct agent_order *o, const struct agent_frame *f)
{
	if (o->step == 2)
		return running_check(o, f);
	if (o->step == 0 && f->type == AGENT_FRAME_HELLO && !memcmp(f->data, AGENT_HELLO_TEXT, AGENT_HELLO_BYTES)) {
		o->step = 1;
		return 0;
	}
	/* With too many sessions, the agent may fail before it has read the request. */
	if (o->step <= 1 && f->type == AGENT_FRAME_FAILED) {
		o->step = 3;
		return 0;
	}
	if (o->step == 1 && o->renews && f->type == AGENT_FRAME_RENEWED) {
		o->renews = false;
		return 0;
	}
	if (o->step == 1 && !o->renews && f->type == AGENT_FRAME_STARTED) {
		o->step = 2;
		return 0;
	}
	return -EPROTO;
}

/* ---- the request to start a program ---- */

static size_t word_put(uint8_t *buf, size_t at, const char *word)
{
	size_t n = strlen(word) + 1;

	if (at + n <= AGENT_DATA_MAX)
		memcpy(buf + at, word, n);
	return at + n;
}

ssize_t agent_start_put(const struct agent_start *s, uint8_t buf[AGENT_DATA_MAX])
{
	size_t at = AGENT_START_BYTES, n = s->nargs + s->nvars;

	if (n > AGENT_WORDS_MAX)
		return -E2BIG;
	store_le32(buf, s->flags);
	store_le16(buf + 4, s->rows);
	store_le16(buf + 6, s->columns);
	store_le16(buf + 8, (uint16_t)s->nargs);
	store_le16(buf + 10, (uint16_t)s->nvars);
	at = word_put(buf, at, s->folder);
	if (s->flags & AGENT_START_USER && at <= AGENT_DATA_MAX)
		at = word_put(buf, at, s->user);
	for (size_t i = 0; i < n && at <= AGENT_DATA_MAX; i++)
		at = word_put(buf, at, s->words[i]);
	return at <= AGENT_DATA_MAX ? (ssize_t)at : -E2BIG;
}

static const char *word_get(const uint8_t *data, size_t len, size_t *at)
{
	const uint8_t *word = data + *at, *end = *at < len ? memchr(word, 0, len - *at) : NULL;

	if (!end)
		return NULL;
	*at = (size_t)(end - data) + 1;
	return (const char *)word;
}

size_t agent_mount_put(const char *tag, const char *folder, uint8_t buf[AGENT_MOUNT_MAX])
{
	size_t tag_bytes = strlen(tag) + 1, folder_bytes = strlen(folder) + 1;

	memcpy(buf, tag, tag_bytes);
	memcpy(buf + tag_bytes, folder, folder_bytes);
	return tag_bytes + folder_bytes;
}

int agent_mount_parse(const uint8_t *data, size_t len, const char **ret_tag, const char **ret_folder)
{
	size_t at = 0;

	*ret_tag = word_get(data, len, &at);
	*ret_folder = *ret_tag ? word_get(data, len, &at) : NULL;
	return *ret_folder && **ret_folder == '/' && at == len ? 0 : -EPROTO;
}

int agent_start_parse(const uint8_t *data, size_t len, struct agent_start *ret)
{
	size_t at = AGENT_START_BYTES;

	if (len < AGENT_START_BYTES)
		return -EPROTO;
	ret->flags = load_le32(data);
	ret->rows = load_le16(data + 4);
	ret->columns = load_le16(data + 6);
	ret->nargs = load_le16(data + 8);
	ret->nvars = load_le16(data + 10);
	if (!ret->nargs || ret->nargs + ret->nvars > AGENT_WORDS_MAX || ret->flags > 31)
		return -EPROTO;
	ret->folder = word_get(data, len, &at);
	ret->user = ret->folder && ret->flags & AGENT_START_USER ? word_get(data, len, &at) : NULL;
	if (!ret->folder || (ret->flags & AGENT_START_USER && !ret->user))
		return -EPROTO;
	for (size_t i = 0; i < ret->nargs + ret->nvars; i++) {
		ret->words[i] = word_get(data, len, &at);
		/* A variable has a name before its '='. */
		if (!ret->words[i] || (i >= ret->nargs && !strcspn(ret->words[i], "=")) || (i >= ret->nargs && !strchr(ret->words[i], '=')))
			return -EPROTO;
	}
	if ((ret->flags & AGENT_START_RECEIVE && ret->nargs != 2) || (ret->flags & AGENT_START_SEND && ret->nargs != 1))
		return -EPROTO;
	return at == len ? 0 : -EPROTO;
}
