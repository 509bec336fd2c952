/* Parses and prints the limits of a network interface: the key `bandwidth`. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define LIMIT(field) offsetof(struct definition_limit, field)
static const struct key limit_rows[] = {
	{ "average", KEY_NUMBER, .offset = LIMIT(average), .min = 1, .max = UINT32_MAX, .about = "average rate, in KiB a second" },
	{ "peak", KEY_NUMBER, .offset = LIMIT(peak), .min = 1, .max = UINT32_MAX,
		.about = "highest rate in a burst, in KiB a second; at least average" },
	{ "burst", KEY_NUMBER, .offset = LIMIT(burst), .min = 1, .max = UINT32_MAX,
		.about = "KiB that may pass faster than average [0.1 s of average]" },
	{ "packets", KEY_NUMBER, .offset = LIMIT(packets), .min = 1, .max = UINT32_MAX, .about = "frames a second" },
};
static const struct keys limit_keys = { limit_rows, ARRAY_SIZE(limit_rows),
	"{\"dependentRequired\":{\"peak\":[\"average\"],\"burst\":[\"average\"]}}" };

#define BANDWIDTH(field) offsetof(struct definition_bandwidth, field)
static const struct key bandwidth_rows[] = {
	{ "inbound", KEY_OBJECT, .offset = BANDWIDTH(in), .of = &limit_keys, .about = "limits of the frames to the guest" },
	{ "outbound", KEY_OBJECT, .offset = BANDWIDTH(out), .of = &limit_keys, .about = "limits of the frames from the guest" },
};
const struct keys definition_bandwidth_keys = { bandwidth_rows, ARRAY_SIZE(bandwidth_rows), NULL };

static int limit_check(struct parse *p, const char *name, const struct definition_limit *l)
{
	if (!l->average && (l->peak || l->burst))
		return key_error(p, "%s: peak and burst need average, the rate in KiB a second", name);
	if (l->peak && l->peak < l->average)
		return key_error(p, "%s: peak (%u) is less than average (%u); give a higher peak, or none", name, l->peak, l->average);
	return 0;
}

int definition_check_bandwidth(struct parse *p, const struct definition_bandwidth *b)
{
	int r = limit_check(p, "bandwidth.inbound", &b->in);

	return r < 0 ? r : limit_check(p, "bandwidth.outbound", &b->out);
}

int definition_parse_limit(struct json_object *o, const char *name, struct definition_limit *ret, struct err *e)
{
	struct parse p = { .e = e };
	struct definition_limit l = { 0 };
	int r;

	snprintf(p.path, sizeof(p.path), "%s", name);
	r = keys_parse(&p, o, &limit_keys, &l);
	p.path[0] = 0;
	if (!r)
		r = limit_check(&p, name, &l);
	if (!r)
		*ret = l;
	return r;
}

struct vm_interface_limit definition_limit_bytes(const struct definition_limit *l)
{
	return (struct vm_interface_limit){ .average = (uint64_t)l->average * KIB, .peak = (uint64_t)l->peak * KIB,
		.burst = (uint64_t)l->burst * KIB, .packets = l->packets };
}

static void put_number(struct json_object *o, const char *key, uint64_t n)
{
	if (n)
		js_put_uint(o, key, n);
}

static void put_limit(struct json_object *o, const char *key, const struct vm_interface_limit *l)
{
	struct json_object *one;

	if (!l->average && !l->packets)
		return;
	one = json_object_new_object();
	put_number(one, "average", l->average / KIB);
	put_number(one, "peak", l->peak / KIB);
	put_number(one, "burst", l->burst / KIB);
	put_number(one, "packets", l->packets);
	js_put(o, key, one);
}

struct json_object *definition_limits_to_json(const struct vm_interface_limits *l)
{
	struct json_object *o = json_object_new_object();

	put_limit(o, "inbound", &l->in);
	put_limit(o, "outbound", &l->out);
	return o;
}

void definition_put_bandwidth(struct json_object *o, const struct definition_bandwidth *b)
{
	struct vm_interface_limits l = { definition_limit_bytes(&b->in), definition_limit_bytes(&b->out) };
	struct json_object *limits = definition_limits_to_json(&l);

	if (json_object_object_length(limits))
		js_put(o, "bandwidth", limits);
	else
		json_object_put(limits);
}
