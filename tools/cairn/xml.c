#include "tools/cairn/xml.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "tools/cairn/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define ANSWER_MAX (16 * 1024 * 1024)

bool xml_is(const char *text, size_t len)
{
	size_t at = len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;

	if (len >= 2 && (!memcmp(text, "\xff\xfe", 2) || !memcmp(text, "\xfe\xff", 2)))
		return true; /* UTF-16 is not JSON */
	while (at < len && strchr(" \t\r\n", text[at]) && text[at])
		at++;
	return at < len && text[at] == '<';
}

/* ---- running cairn-xml ---- */

/* Print the sentences of all refused elements, so that the user can fix all of them at once. */
static void refusals_print(struct json_object *o, struct err *e)
{
	struct json_object *list = js_get_array(o, "refusals");
	size_t n = list ? json_object_array_length(list) : 0;
	const char *least = js_get_bool(o, "refused-more", false) ? "at least " : "";
	int64_t all = js_get_int(o, "refused", 0);

	if (!n)
		return;
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "error: %s\n", json_object_get_string(json_object_array_get_idx(list, i)));
	if (all > (int64_t)n)
		fprintf(stderr, "error: and %s%lld more\n", least, (long long)all - (long long)n);
	err_set(e, -EINVAL, e->cls, "%s%lld elements are refused, see above", least, (long long)all);
}

static int answer_parse(const char *text, size_t len, struct json_object **ret_o, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *error;
	int64_t class;

	if (js_parse(text, len, "the answer of cairn-xml", &o, e) < 0)
		return -EIO;
	error = js_get(o, "error");
	if (error) {
		class = js_get_int(error, "class", ERR_INVALID);
		err_set(e, -EINVAL, class >= 0 && class < ERR_CLASS_COUNT ? (enum err_class)class : ERR_GENERIC,
			"%s", js_get_str(error, "desc"));
		refusals_print(o, e);
		return -EINVAL;
	}
	*ret_o = STEAL_PTR(o);
	return 0;
}

static int helper_run(const char *mode, const char *text, size_t len, struct json_object **ret_o,
	struct err *e)
{
	CLEANUP_CLOSE int from = -1, to = -1;
	CLEANUP_FREE char *answer = NULL;
	int pair[2], r, status = 0, waited;
	size_t answer_len;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "pipe");
	from = pair[0];
	to = pair[1];
	r = helper_spawn("cairn-xml", mode, text, len, to, -1, &pid, e);
	if (r < 0)
		return r;
	close(steal_fd(&to));
	r = file_read_fd(from, "the answer of cairn-xml", ANSWER_MAX, &answer, &answer_len, e);
	close(steal_fd(&from)); /* cairn-xml ends if it still writes */
	waited = helper_wait("cairn-xml", pid, &status, r < 0 ? NULL : e);
	if (r < 0 || waited < 0)
		return r < 0 ? r : waited;
	if (WIFSIGNALED(status))
		return err_set(e, -EINVAL, ERR_INVALID,
			"cairn-xml was killed by signal %d (%s): the XML takes too much time or memory",
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	return answer_parse(answer, answer_len, ret_o, e);
}

/* ---- converting definitions ---- */

static int to_json(const char *mode, const char *text, size_t len, struct json_object **ret_definition,
	struct json_object **ret_warnings, struct json_object **ret_origins, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = helper_run(mode, text, len, &o, e);

	/* An unsupported element counts as an invalid definition, as in JSON. */
	if (r < 0 && e->cls == ERR_UNSUPPORTED)
		e->cls = ERR_INVALID;
	if (r < 0)
		return r;
	*ret_definition = json_object_get(js_get(o, "definition"));
	*ret_warnings = json_object_get(js_get(o, "warnings"));
	*ret_origins = json_object_get(js_get(o, "origins"));
	return 0;
}

int xml_to_definition(const char *text, size_t len, struct json_object **ret_definition,
	struct json_object **ret_warnings, struct json_object **ret_origins, struct err *e)
{
	return to_json("to-json", text, len, ret_definition, ret_warnings, ret_origins, e);
}

int xml_to_network(const char *text, size_t len, struct json_object **ret_definition, struct json_object **ret_warnings,
	struct json_object **ret_origins, struct err *e)
{
	return to_json("net-to-json", text, len, ret_definition, ret_warnings, ret_origins, e);
}

int xml_network_entry(const char *section, const char *text, size_t len, struct json_object **ret_entry,
	struct json_object **ret_warnings, struct err *e)
{
	CLEANUP_JS struct json_object *origins = NULL;
	char mode[64];

	snprintf(mode, sizeof(mode), "net-%s-to-json", section);
	return to_json(mode, text, len, ret_entry, ret_warnings, &origins, e);
}

/* Give cairn-xml a definition. id: of a running VM; negative: none. The caller owns *ret_answer. */
static int definition_send(const char *mode, struct json_object *definition, int id, struct json_object **ret_answer, struct err *e)
{
	CLEANUP_JS struct json_object *ask = json_object_new_object();
	const char *text;
	char number[16];

	snprintf(number, sizeof(number), "%d", id);
	js_put(ask, "definition", json_object_get(definition));
	if (id >= 0)
		js_put_str(ask, "id", number);
	text = json_object_to_json_string_ext(ask, JSON_C_TO_STRING_PLAIN);
	return helper_run(mode, text, strlen(text), ret_answer, e);
}

static int to_xml(const char *mode, struct json_object *definition, int id, char **ret_xml, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = definition_send(mode, definition, id, &o, e);
	const char *xml;

	if (r < 0)
		return r;
	xml = js_get_str(o, "xml");
	*ret_xml = xml ? strdup(xml) : NULL;
	return *ret_xml ? 0 : err_set_errno(e, -ENOMEM, "cairn-xml");
}

int xml_from_definition(struct json_object *definition, int id, char **ret_xml, struct err *e)
{
	return to_xml("to-xml", definition, id, ret_xml, e);
}

int xml_extra(struct json_object *definition, struct json_object **ret_extra, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = definition_send("to-extra", definition, -1, &o, e);

	if (!r)
		*ret_extra = json_object_get(js_get(o, "extra"));
	return r;
}

int xml_from_network(struct json_object *definition, char **ret_xml, struct err *e)
{
	return to_xml("net-to-xml", definition, -1, ret_xml, e);
}

int xml_from_volume(struct json_object *volume, char **ret_xml, struct err *e)
{
	return to_xml("vol-to-xml", volume, -1, ret_xml, e);
}

int xml_from_snapshot(struct json_object *snapshot, char **ret_xml, struct err *e)
{
	return to_xml("snapshot-to-xml", snapshot, -1, ret_xml, e);
}

/* ---- lines of keys in the XML ---- */

/* Is the sentence about this key or a key below it? */
static bool is_about(const char *sentence, const char *key)
{
	size_t len = strlen(key);

	return !strncmp(sentence, key, len) && strchr(".:[", sentence[len]) && sentence[len];
}

void xml_locate(struct json_object *origins, struct err *e)
{
	const char *best = NULL, *where = NULL;

	if (!origins)
		return;
	json_object_object_foreach(origins, key, v)
	{
		if (is_about(e->msg, key) && (!best || strlen(key) > strlen(best))) {
			best = key;
			where = json_object_get_string(v);
		}
	}
	if (best)
		err_prefix(e, "%s", where);
}
