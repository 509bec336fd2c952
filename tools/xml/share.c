/* Convert shared folders to a definition: <filesystem> with the driver virtiofs. */
#include "tools/xml/domain.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/xml/reading.h"

static int share_read(struct reading *r, struct _xmlNode *n, struct json_object *list)
{
	CLEANUP_FREE char *path = node_attr(node_child(n, "source"), "dir"), *tag = node_attr(node_child(n, "target"), "dir");
	CLEANUP_FREE char *type = node_attr(n, "type");
	struct json_object *o;

	if (type && !node_attr_is(n, "type", "mount"))
		return reading_error(r, n, "type", ERR_UNSUPPORTED, "\"%.40s\" is not supported; use mount", type);
	if (!node_attr_is(node_child(n, "driver"), "type", "virtiofs"))
		return reading_error(r, n, NULL, ERR_UNSUPPORTED, "shares a folder by 9p, which is not supported; add "
			"<driver type='virtiofs'/>, and mount it in the guest with -t virtiofs");
	if (!path || !tag)
		return reading_error(r, n, NULL, ERR_INVALID, "has no %s", path ? "<target dir='...'/>, the tag by which the guest mounts it" :
			"<source dir='...'/>, the folder of the host");
	o = json_object_new_object();
	js_put_str(o, "path", path);
	js_put_str(o, "tag", tag);
	js_put_bool(o, "readonly", node_child(n, "readonly") != NULL);
	reading_origin(r, n, "shares[%zu]", json_object_array_length(list));
	json_object_array_add(list, o);
	return 0;
}

int shares_read(struct reading *r, struct _xmlNode *domain)
{
	struct json_object *list = json_object_new_array();
	int ret = 0;

	for (struct _xmlNode *n = node_child(node_child(domain, "devices"), "filesystem"); n && !ret; n = node_next(n))
		ret = reading_continue(r, share_read(r, n, list));
	if (json_object_array_length(list))
		js_put(r->definition, "shares", list);
	else
		json_object_put(list);
	return ret;
}
