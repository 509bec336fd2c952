#include "tools/cairn/egress_words.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

bool egress_rule_add(struct json_object *egress, const char *text)
{
	CLEANUP_FREE char *copy = must_alloc(strdup(text));
	char *rest = copy;
	const char *action = strsep(&rest, " "), *word;
	struct json_object *rule;

	if (strcmp(action, "allow") != 0 && strcmp(action, "deny") != 0)
		return false;
	if (!rest) {
		js_put_str(egress, "default", action);
		return true;
	}
	rule = json_object_new_object();
	json_object_array_add(js_get_array(egress, "rules"), rule);
	while ((word = strsep(&rest, " ")))
		if (!rest)
			js_put_str(rule, action, word);
		else if (egress_protocol_parse(word) >= 0)
			js_put_str(rule, "protocol", word);
		else
			js_put_str(rule, "ports", word);
	return true;
}

void egress_rules_show(struct json_object *egress)
{
	struct json_object *rules = js_get_array(egress, "rules");

	for (size_t i = 0; rules && i < json_object_array_length(rules); i++) {
		struct json_object *rule = json_object_array_get_idx(rules, i), *ports = js_get(rule, "ports");
		const char *allow = js_get_str(rule, "allow"), *protocol = js_get_str(rule, "protocol");

		printf("%s%s%s%s%s %s\n", allow ? "allow" : "deny", protocol ? " " : "", protocol ? protocol : "", ports ? " " : "",
			ports ? json_object_get_string(ports) : "", allow ? allow : js_get_str_or(rule, "deny", "-"));
	}
	printf("%s\n", js_get_str_or(egress, "default", "deny"));
}
