/* The key `shares` of a definition: folders of the host that the guest can mount. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse_tag(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, SHARE_TAG_MAX);
	char **tag = into;

	if (!s)
		return -EINVAL;
	if (!*s || !utf8_is_clean(s))
		return key_error(p, *s ? "must be one line without control characters" : "is empty; the guest mounts the folder by it");
	free(*tag);
	*tag = strdup(s);
	return *tag ? 0 : err_set_errno(p->e, -ENOMEM, "definition");
}

static const struct key share_rows[] = {
	{ "path", KEY_PATH, .offset = offsetof(struct definition_share, path), .about = "folder of the host", .needed = true },
	{ "tag", KEY_CUSTOM, .offset = offsetof(struct definition_share, tag), .parse = parse_tag, .needed = true,
		.about = "name by which the guest mounts the folder, at most 36 bytes",
		.form = "{\"type\":\"string\",\"pattern\":\"^[^\\u0000-\\u001f\\u007f-\\u009f]+$\",\"maxLength\":36}" },
	{ "readonly", KEY_BOOL, .offset = offsetof(struct definition_share, read_only),
		.about = "the guest cannot change the folder", .initial = "true" },
};
const struct keys definition_share_keys = { share_rows, ARRAY_SIZE(share_rows), NULL };

static int check_share(struct parse *p, size_t i)
{
	const struct definition_share *s = &p->d->shares[i];

	if (!s->path)
		return key_error(p, "path: is missing; name a folder of the host");
	if (!s->tag)
		return key_error(p, "tag: is missing; the guest mounts the folder by it: mount -t virtiofs TAG /mnt");
	for (size_t k = 0; k < i; k++)
		if (!strcmp(p->d->shares[k].tag, s->tag))
			return key_error(p, "tag: is also the tag of shares[%zu]; give each share a different tag", k);
	return 0;
}

int definition_parse_shares(struct parse *p, struct json_object *v, void *into)
{
	size_t n;

	(void)into;
	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of shared folders, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > VM_SHARES_MAX)
		return key_error(p, "has %zu shared folders; at most %d", n, VM_SHARES_MAX);
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r;

		p->d->nshares = (uint32_t)i + 1;
		p->d->shares[i].read_only = true;
		r = keys_parse(p, json_object_array_get_idx(v, i), &definition_share_keys, &p->d->shares[i]);
		if (!r)
			r = check_share(p, i);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}

void definition_free_shares(struct definition *d)
{
	for (unsigned i = 0; i < VM_SHARES_MAX; i++) {
		free(d->shares[i].path);
		free(d->shares[i].tag);
	}
}
