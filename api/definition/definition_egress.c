/* Parses and prints the egress rules of an interface: the key `egress`. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/egress.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct choice actions[] = { { "deny", 0 }, { "allow", 1 }, { NULL, 0 } };
static const struct choice protocols[] = { { "any", 0 }, { "tcp", IPPROTO_TCP }, { "udp", IPPROTO_UDP },
	{ "icmp", IPPROTO_ICMP }, { NULL, 0 } };

/* One parsed rule, before the check of the whole rule. */
struct rule_keys {
	struct egress_rule rule;
	bool has_allow, has_deny;
};

static int target_parse(struct parse *p, struct json_object *v, struct rule_keys *r)
{
	const char *s = key_text(p, v, EGRESS_TARGET_TEXT), *wrong;
	char given[48];

	if (!s)
		return -EINVAL;
	wrong = egress_target_parse(s, &r->rule);
	if (!wrong)
		return 0;
	key_quote(s, given);
	return key_error(p, "\"%s\" %s", given, wrong);
}

static int parse_allow(struct parse *p, struct json_object *v, void *into)
{
	struct rule_keys *r = into;

	r->has_allow = r->rule.allow = true;
	return target_parse(p, v, r);
}

static int parse_deny(struct parse *p, struct json_object *v, void *into)
{
	struct rule_keys *r = into;

	r->has_deny = true;
	return target_parse(p, v, r);
}

static int parse_ports(struct parse *p, struct json_object *v, void *into)
{
	struct rule_keys *r = into;
	bool number = json_object_is_type(v, json_type_int);
	const char *s = number ? json_object_get_string(v) : key_text(p, v, EGRESS_PORTS_TEXT);
	const char *wrong = s ? egress_ports_parse(s, &r->rule) : NULL;

	if (!s)
		return -EINVAL;
	return wrong ? key_error(p, "%s", wrong) : 0;
}

#define TARGET_FORM "{\"type\":\"string\",\"maxLength\":255,\"pattern\":\"^[A-Za-z0-9*._:/-]+$\"}"
static const struct key rule_rows[] = {
	{ "allow", KEY_CUSTOM, .parse = parse_allow, .about = "address, prefix, DNS name, *.NAME or any that the guest may reach",
		.form = TARGET_FORM },
	{ "deny", KEY_CUSTOM, .parse = parse_deny, .about = "the same, that it may not reach", .form = TARGET_FORM },
	{ "protocol", KEY_CHOICE, .offset = offsetof(struct rule_keys, rule.protocol), .choices = protocols,
		.about = "protocol of the rule", .initial = "\"any\"" },
	{ "ports", KEY_CUSTOM, .parse = parse_ports, .about = "ports and ranges of TCP and UDP, such as 443 or 80,8000-8100 [all]",
		.form = "{\"anyOf\":[{\"type\":\"integer\",\"minimum\":1,\"maximum\":65535},{\"type\":\"string\","
			"\"pattern\":\"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?){0,7}$\"}]}" },
};
static const struct keys rule_keys = { rule_rows, ARRAY_SIZE(rule_rows),
	"{\"oneOf\":[{\"required\":[\"allow\"]},{\"required\":[\"deny\"]}]}" };

static int rule_parse(struct parse *p, struct json_object *v, struct egress_rule *ret)
{
	struct rule_keys r = { 0 };
	int err = keys_parse(p, v, &rule_keys, &r);

	if (err < 0)
		return err;
	if (r.has_allow == r.has_deny)
		return key_error(p, "must have one of allow and deny");
	if (r.rule.nports && r.rule.protocol == IPPROTO_ICMP)
		return key_error(p, "ports: icmp has no ports; remove them");
	*ret = r.rule;
	return 0;
}

static int parse_rules(struct parse *p, struct json_object *v, void *into)
{
	struct egress *e = into;
	size_t n;

	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of rules, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > EGRESS_RULES_MAX)
		return key_error(p, "has %zu rules; at most %d", n, EGRESS_RULES_MAX);
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r = rule_parse(p, json_object_array_get_idx(v, i), &e->rules[i]);

		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	e->nrules = (uint32_t)n;
	return 0;
}

static const struct key egress_rows[] = {
	{ "default", KEY_CHOICE, .offset = offsetof(struct egress, allow), .choices = actions,
		.about = "verdict on packets that match no rule", .initial = "\"deny\"" },
	{ "rules", KEY_ARRAY, .max = EGRESS_RULES_MAX, .of = &rule_keys, .parse = parse_rules,
		.about = "the first rule that fits decides" },
};
const struct keys definition_egress_keys = { egress_rows, ARRAY_SIZE(egress_rows), NULL };

int definition_parse_egress(struct parse *p, struct json_object *v, void *into)
{
	struct egress **slot = into, *e;
	int r;

	e = calloc(1, sizeof(*e));
	if (!e)
		return err_set_errno(p->e, -ENOMEM, "definition");
	r = keys_parse(p, v, &definition_egress_keys, e);
	if (r < 0) {
		free(e);
		return r;
	}
	free(*slot);
	*slot = e;
	return 0;
}

void definition_put_egress(struct json_object *o, const struct egress *e)
{
	struct json_object *egress = json_object_new_object(), *rules = json_object_new_array();

	js_put_str(egress, "default", e->allow ? "allow" : "deny");
	for (uint32_t i = 0; i < e->nrules; i++) {
		const struct egress_rule *r = &e->rules[i];
		struct json_object *one = json_object_new_object();
		char target[EGRESS_TARGET_TEXT], ports[EGRESS_PORTS_TEXT];

		egress_target_print(r, target);
		egress_ports_print(r, ports);
		js_put_str(one, r->allow ? "allow" : "deny", target);
		if (r->protocol)
			js_put_str(one, "protocol", egress_protocol_name(r->protocol));
		if (ports[0])
			js_put_str(one, "ports", ports);
		json_object_array_add(rules, one);
	}
	js_put(egress, "rules", rules);
	js_put(o, "egress", egress);
}
