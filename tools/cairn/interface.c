#include "tools/cairn/interface.h"
#include "api/wire/json.h"
#include "base/util.h"

#include <strings.h>

struct json_object *interface_find(struct json_object *list, const char *which)
{
	static const char *const keys[] = { "id", "target", "mac" };

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
			const char *value = js_get_str(o, keys[k]);

			if (value && !strcasecmp(value, which))
				return o;
		}
	}
	return NULL;
}
