/* Verbs that ask the guest's agent, with virsh's words. The texts of its answers are cleaned for the terminal. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/cairn/guest_agent.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FREEZE_TIMEOUT_S 60

/* Run a command, and clean the texts of its result. */
static int ask(struct cli *c, const char *name, struct json_object *args, bool looks, unsigned timeout_s, struct json_object **ret_v,
	struct err *e)
{
	int r = guest_agent_call(c, c->pos[0], name, args, looks, timeout_s, ret_v, e);

	if (!r)
		cli_texts_clean(*ret_v);
	return r;
}

/* ---- qemu-agent-command ---- */

int verb_qemu_agent_command(struct cli *c)
{
	CLEANUP_JS struct json_object *command = NULL, *answer = NULL;
	uint64_t timeout_ns;
	struct err e;
	int r;

	if (option_seconds(c, "timeout", GUEST_AGENT_TIMEOUT_S * 1000000000ULL, &timeout_ns))
		return CLI_USAGE;
	if (option_flag(c, "block"))
		timeout_ns = GUEST_AGENT_TIMEOUT_MAX_S * 1000000000ULL;
	r = js_parse(c->pos[1], strlen(c->pos[1]), "COMMAND", &command, &e);
	if (!r && !json_object_is_type(command, json_type_object))
		r = err_set(&e, -EINVAL, ERR_INVALID, "COMMAND must be an object, such as '{\"execute\": \"guest-info\"}'");
	if (!r)
		r = guest_agent_ask(c, c->pos[0], json_object_get(command), false,
			(unsigned)((timeout_ns + 999999999) / 1000000000), &answer, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to run the guest agent's command in domain '%s'", c->pos[0]);
	cli_texts_clean(answer);
	puts(json_object_to_json_string_ext(answer, option_flag(c, "pretty") ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED :
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	return CLI_OK;
}

/* ---- guestinfo ---- */

/* Whether a member exists and can be printed on one line. */
static void info_put(struct json_object *out, const char *key, struct json_object *of, const char *member)
{
	struct json_object *v = js_get(of, member);

	if (v && !json_object_is_type(v, json_type_object) && !json_object_is_type(v, json_type_array))
		js_put(out, key, json_object_get(v));
}

/* As info_put(), with the key "<list>.<i>.<name>". */
static void entry_put(struct json_object *out, const char *list, size_t i, const char *name, struct json_object *of, const char *member)
{
	char key[96];

	snprintf(key, sizeof(key), "%s.%zu.%s", list, i, name);
	info_put(out, key, of, member);
}

static size_t count_put(struct json_object *out, const char *list, struct json_object *v)
{
	size_t n = json_object_is_type(v, json_type_array) ? json_object_array_length(v) : 0;
	char key[96];

	snprintf(key, sizeof(key), "%s.count", list);
	js_put_uint(out, key, n);
	return n;
}

static void users_put(struct json_object *out, struct json_object *v)
{
	size_t n = count_put(out, "user", v);

	for (size_t i = 0; i < n; i++) {
		struct json_object *u = json_object_array_get_idx(v, i), *since = js_get(u, "login-time");
		double s = since ? json_object_get_double(since) : 0;
		char key[64];

		entry_put(out, "user", i, "name", u, "user");
		entry_put(out, "user", i, "domain", u, "domain");
		snprintf(key, sizeof(key), "user.%zu.login-time", i);
		if (s > 0 && s < 1e12)
			js_put_uint(out, key, (uint64_t)(s * 1000));
	}
}

static void os_put(struct json_object *out, struct json_object *v)
{
	static const char *const members[] = { "id", "name", "pretty-name", "version", "version-id", "machine", "variant",
		"variant-id", "kernel-release", "kernel-version" };
	char key[64];

	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		snprintf(key, sizeof(key), "os.%s", members[i]);
		info_put(out, key, v, members[i]);
	}
}

static void timezone_put(struct json_object *out, struct json_object *v)
{
	info_put(out, "timezone.name", v, "zone");
	info_put(out, "timezone.offset", v, "offset");
}

static void hostname_put(struct json_object *out, struct json_object *v)
{
	info_put(out, "hostname", v, "host-name");
}

static void filesystems_put(struct json_object *out, struct json_object *v)
{
	size_t n = count_put(out, "fs", v);
	char list[64];

	for (size_t i = 0; i < n; i++) {
		struct json_object *fs = json_object_array_get_idx(v, i), *disks = js_get_array(fs, "disk");
		size_t ndisks;

		entry_put(out, "fs", i, "name", fs, "name");
		entry_put(out, "fs", i, "mountpoint", fs, "mountpoint");
		entry_put(out, "fs", i, "fstype", fs, "type");
		entry_put(out, "fs", i, "total-bytes", fs, "total-bytes");
		entry_put(out, "fs", i, "used-bytes", fs, "used-bytes");
		snprintf(list, sizeof(list), "fs.%zu.disk", i);
		ndisks = count_put(out, list, disks);
		for (size_t k = 0; k < ndisks; k++) {
			entry_put(out, list, k, "serial", json_object_array_get_idx(disks, k), "serial");
			entry_put(out, list, k, "device", json_object_array_get_idx(disks, k), "dev");
		}
	}
}

static void disks_put(struct json_object *out, struct json_object *v)
{
	size_t n = count_put(out, "disk", v);

	for (size_t i = 0; i < n; i++) {
		struct json_object *d = json_object_array_get_idx(v, i);

		entry_put(out, "disk", i, "name", d, "name");
		entry_put(out, "disk", i, "partition", d, "partition");
		entry_put(out, "disk", i, "guest_alias", d, "alias");
		entry_put(out, "disk", i, "serial", js_get(d, "address"), "serial");
		entry_put(out, "disk", i, "guest_bus", js_get(d, "address"), "bus-type");
	}
}

static void interfaces_put(struct json_object *out, struct json_object *v)
{
	size_t n = count_put(out, "if", v);
	char list[64];

	for (size_t i = 0; i < n; i++) {
		struct json_object *nic = json_object_array_get_idx(v, i), *all = js_get_array(nic, "ip-addresses");
		size_t naddrs;

		entry_put(out, "if", i, "name", nic, "name");
		entry_put(out, "if", i, "hwaddr", nic, "hardware-address");
		snprintf(list, sizeof(list), "if.%zu.addr", i);
		naddrs = count_put(out, list, all);
		for (size_t k = 0; k < naddrs; k++) {
			struct json_object *a = json_object_array_get_idx(all, k);

			entry_put(out, list, k, "type", a, "ip-address-type");
			entry_put(out, list, k, "addr", a, "ip-address");
			entry_put(out, list, k, "prefix", a, "prefix");
		}
	}
}

static const struct {
	const char *option, *command;
	void (*put)(struct json_object *out, struct json_object *v);
} kinds[] = {
	{ "user", "guest-get-users", users_put },
	{ "os", "guest-get-osinfo", os_put },
	{ "timezone", "guest-get-timezone", timezone_put },
	{ "hostname", "guest-get-host-name", hostname_put },
	{ "filesystem", "guest-get-fsinfo", filesystems_put },
	{ "disk", "guest-get-disks", disks_put },
	{ "interface", "guest-network-get-interfaces", interfaces_put },
};

/* Without options, ask for everything, and leave out information that this agent or guest lacks. */
int verb_guestinfo(struct cli *c)
{
	CLEANUP_JS struct json_object *out = json_object_new_object();
	size_t wanted = 0, got = 0;
	struct err e = { 0 };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		wanted += option_flag(c, kinds[i].option);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		CLEANUP_JS struct json_object *v = NULL;

		if (wanted && !option_flag(c, kinds[i].option))
			continue;
		r = ask(c, kinds[i].command, NULL, true, GUEST_AGENT_TIMEOUT_S, &v, &e);
		if (r < 0 && (wanted || strncmp(e.msg, "the guest agent refuses", 23)))
			break;
		if (!r) {
			kinds[i].put(out, v);
			got++;
		}
	}
	if (r < 0 && (wanted || !got))
		return cli_fail(&e, "Failed to query the guest of domain '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, out);
		return CLI_OK;
	}
	json_object_object_foreach(out, key, v)
		printf("%-20s: %s\n", key, json_object_get_string(v));
	return CLI_OK;
}

int verb_domhostname(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct err e;
	int r = ask(c, "guest-get-host-name", NULL, true, GUEST_AGENT_TIMEOUT_S, &v, &e);

	if (!r && !js_get_str(v, "host-name"))
		r = guest_agent_malformed("guest-get-host-name", &e);
	if (r < 0)
		return cli_fail(&e, "failed to get hostname of domain '%s'", c->pos[0]);
	puts(js_get_str(v, "host-name"));
	return CLI_OK;
}

/* ---- file systems ---- */

/* Write the devices of a file system, with commas. */
static void devices_text(struct json_object *fs, char *buf, size_t size)
{
	struct json_object *disks = js_get_array(fs, "disk");
	size_t n = 0;

	buf[0] = 0;
	for (size_t i = 0; disks && i < json_object_array_length(disks) && n < size; i++) {
		const char *dev = js_get_str(json_object_array_get_idx(disks, i), "dev");

		if (dev)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? "," : "", strrchr(dev, '/') ? strrchr(dev, '/') + 1 : dev);
	}
}

int verb_domfsinfo(struct cli *c)
{
	static const char *const heads[] = { "Mountpoint", "Name", "Type", "Target" };
	CLEANUP_JS struct json_object *v = NULL;
	struct table t;
	struct err e;
	int r = ask(c, "guest-get-fsinfo", NULL, true, GUEST_AGENT_TIMEOUT_S, &v, &e);

	if (!r && !json_object_is_type(v, json_type_array))
		r = guest_agent_malformed("guest-get-fsinfo", &e);
	if (r < 0)
		return cli_fail(&e, "Unable to get filesystem information of domain '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, v);
		return CLI_OK;
	}
	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *fs = json_object_array_get_idx(v, i);
		char devices[256];

		devices_text(fs, devices, sizeof(devices));
		table_add(&t, (const char *const[]){ js_get_str_or(fs, "mountpoint", "-"), js_get_str_or(fs, "name", "-"),
			js_get_str_or(fs, "type", "-"), devices });
	}
	table_finish(&t, stdout);
	return CLI_OK;
}

int verb_domfstrim(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	const char *minimum = option_value(c, "minimum");
	struct json_object *args = NULL;
	struct err e;
	char *end;

	if (minimum) {
		long long n = strtoll(minimum, &end, 10);

		if (end == minimum || *end || n < 0)
			return cli_usage(c, "--minimum must be a number of bytes, not \"%s\"", minimum);
		args = json_object_new_object();
		js_put_int(args, "minimum", n);
	}
	if (ask(c, "guest-fstrim", args, false, GUEST_AGENT_TIMEOUT_MAX_S, &v, &e) < 0)
		return cli_fail(&e, "Unable to invoke fstrim in domain '%s'", c->pos[0]);
	return CLI_OK;
}

/* Freeze all file systems, or those at the mount points. */
int verb_domfsfreeze(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	const char *points[CLI_GIVEN_MAX];
	size_t n = option_values(c, "mountpoint", points, ARRAY_SIZE(points));
	struct json_object *args = NULL, *list;
	struct err e;

	if (n) {
		args = json_object_new_object();
		list = json_object_new_array();
		for (size_t i = 0; i < n; i++)
			json_object_array_add(list, json_object_new_string(points[i]));
		js_put(args, "mountpoints", list);
	}
	if (ask(c, n ? "guest-fsfreeze-freeze-list" : "guest-fsfreeze-freeze", args, false, FREEZE_TIMEOUT_S, &v, &e) < 0)
		return cli_fail(&e, "Unable to freeze filesystems of domain '%s'", c->pos[0]);
	say("Froze %lld filesystem(s)\n", (long long)json_object_get_int64(v));
	return CLI_OK;
}

int verb_domfsthaw(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct err e;

	if (ask(c, "guest-fsfreeze-thaw", NULL, false, FREEZE_TIMEOUT_S, &v, &e) < 0)
		return cli_fail(&e, "Unable to thaw filesystems of domain '%s'", c->pos[0]);
	say("Thawed %lld filesystem(s)\n", (long long)json_object_get_int64(v));
	return CLI_OK;
}

/* ---- set-user-password, domtime ---- */

/* Read the password's line from standard input. Returns NULL if there is none, or if it is too long. */
static char *password_read(char *buf, size_t size)
{
	char *end;

	if (!fgets(buf, (int)size, stdin))
		return NULL;
	end = strchr(buf, '\n');
	if (!end && !feof(stdin))
		return NULL;
	if (end)
		*end = 0;
	return buf;
}

int verb_set_user_password(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	CLEANUP_FREE char *encoded = NULL;
	const char *password = c->pos[2];
	struct json_object *args;
	struct err e;
	char line[1024];

	if (!strcmp(password, "-"))
		password = password_read(line, sizeof(line));
	if (!password || !*password)
		return cli_usage(c, "standard input has no password, or one of more than %zu bytes", sizeof(line) - 2);
	encoded = base64_encode(password, strlen(password));
	args = json_object_new_object();
	js_put_str(args, "username", c->pos[1]);
	js_put_str(args, "password", encoded);
	js_put_bool(args, "crypted", option_flag(c, "encrypted"));
	if (ask(c, "guest-set-user-password", args, false, GUEST_AGENT_TIMEOUT_S, &v, &e) < 0)
		return cli_fail(&e, "Failed to set the password of %s in domain '%s'", c->pos[1], c->pos[0]);
	say("Password set successfully for %s in %s\n", c->pos[1], c->pos[0]);
	return CLI_OK;
}

static int time_show(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct err e;
	int64_t ns;
	time_t s;
	struct tm tm;
	char text[64];
	int r = ask(c, "guest-get-time", NULL, true, GUEST_AGENT_TIMEOUT_S, &v, &e);

	if (!r && !json_object_is_type(v, json_type_int))
		r = guest_agent_malformed("guest-get-time", &e);
	if (r < 0)
		return cli_fail(&e, "Failed to get the time of domain '%s'", c->pos[0]);
	ns = json_object_get_int64(v);
	s = (time_t)(ns / 1000000000);
	if (c->format != CLI_TABLE) {
		CLEANUP_JS struct json_object *o = json_object_new_object();

		js_put_int(o, "time", ns);
		output_print(stdout, c->format, o);
	} else if (option_flag(c, "pretty") && gmtime_r(&s, &tm) && strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm)) {
		printf("Time: %s\n", text);
	} else {
		printf("Time: %lld\n", (long long)s);
	}
	return CLI_OK;
}

int verb_domtime(struct cli *c)
{
	CLEANUP_JS struct json_object *v = NULL;
	const char *set = option_value(c, "time");
	bool now = option_flag(c, "now"), sync = option_flag(c, "sync");
	struct json_object *args = NULL;
	struct err e;
	char *end = NULL;
	long long s = set ? strtoll(set, &end, 10) : (long long)time(NULL);

	if ((set != NULL) + now + sync > 1)
		return cli_usage(c, "only one of --time, --now and --sync is possible");
	if (set && (end == set || *end || s < 0 || s > INT64_MAX / 1000000000))
		return cli_usage(c, "--time must be a number of seconds since 1970, not \"%s\"", set);
	if (!set && !now && !sync)
		return time_show(c);
	if (!sync) {
		args = json_object_new_object();
		js_put_int(args, "time", s * 1000000000);
	}
	if (ask(c, "guest-set-time", args, false, GUEST_AGENT_TIMEOUT_S, &v, &e) < 0)
		return cli_fail(&e, "Failed to set the time of domain '%s'", c->pos[0]);
	return CLI_OK;
}
