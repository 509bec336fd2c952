/* The key `vnc` of a definition. */
#include "api/definition/definition.h"
#include "api/definition/definition_key.h"
#include "api/wire/json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VNC(field) offsetof(struct definition, vnc.field)

static int parse_address(struct parse *p, struct json_object *v, void *into)
{
	const char *text = key_text(p, v, INET6_ADDRSTRLEN - 1);
	struct in6_addr address;
	char quoted[48];

	(void)into;
	if (!text)
		return -EINVAL;
	key_quote(text, quoted);
	if (inet_pton(AF_INET, text, &address) != 1 && inet_pton(AF_INET6, text, &address) != 1)
		return key_error(p, "must be an address of this host such as \"127.0.0.1\" or \"::1\", not %s", quoted);
	snprintf(p->d->vnc.address, sizeof(p->d->vnc.address), "%s", text);
	return 0;
}

static const struct key vnc_rows[] = {
	{ "path", KEY_PATH, .offset = VNC(path), .about = "Unix socket to make for VNC clients [NAME.vnc]" },
	{ "port", KEY_NUMBER, .offset = VNC(port), .min = 1, .max = 65535,
		.about = "TCP port of this host, in place of a socket; needs password_file" },
	{ "address", KEY_CUSTOM, .parse = parse_address, .about = "address of this host", .initial = "\"127.0.0.1\"",
		.form = "{\"type\":\"string\",\"maxLength\":45}" },
	{ "password_file", KEY_PATH, .offset = VNC(password_file),
		.about = "file whose first line is the password, 1 to 8 bytes; read at each start" },
};
KEYS(vnc_keys, vnc_rows);

int definition_parse_vnc(struct parse *p, struct json_object *v, void *into)
{
	(void)into;
	p->d->vnc.on = true;
	if (json_object_is_type(v, json_type_boolean)) {
		p->d->vnc.on = json_object_get_boolean(v);
		return 0;
	}
	if (!json_object_is_type(v, json_type_object))
		return key_error(p, "must be true, false or an object in braces, not %s", js_type_words(v));
	return keys_parse(p, v, &vnc_keys, p->d);
}

/* Name the socket after the VM. */
static int path_default(struct parse *p)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char name[sizeof(p->d->name) + 8];

	snprintf(name, sizeof(name), "%s.vnc", p->d->name);
	js_put_str(o, "path", name);
	snprintf(p->path, sizeof(p->path), "vnc");
	return keys_parse(p, o, &vnc_keys, p->d);
}

int definition_check_vnc(struct parse *p)
{
	struct definition_vnc *v = &p->d->vnc;
	int r = 0;

	if (!v->on)
		return 0;
	if (!p->d->screen)
		return key_error(p, "vnc: there is nothing to show; set screen to true");
	if (v->port && v->path)
		return key_error(p, "vnc: give either path or port");
	if (!v->port && v->address[0])
		return key_error(p, "vnc.port: is missing");
	if (v->port && !v->password_file)
		return key_error(p, "vnc.password_file: a TCP port needs a password; write it to a file and name the file here, or give a path "
			"in place of a port");
	if (!v->port && !v->path)
		r = path_default(p);
	if (!r && v->port && !v->address[0])
		snprintf(v->address, sizeof(v->address), "127.0.0.1");
	p->path[0] = 0;
	if (!r && v->path && strlen(v->path) > DEFINITION_VSOCK_PATH_MAX)
		return key_error(p, "vnc.path: is %zu bytes long; the path of a socket has at most %d", strlen(v->path),
			DEFINITION_VSOCK_PATH_MAX);
	return r;
}

void definition_free_vnc(struct definition_vnc *v)
{
	free(v->path);
	free(v->password_file);
}
