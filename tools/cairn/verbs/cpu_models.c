/* cpu-models: list the processor models, and tell which of them this host can give to a guest. Needs no daemon. */
#include "api/wire/json.h"
#include "base/cpu_model.h"
#include "base/cpu_model_table.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/host_probe.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FEATURES_BYTES 4096u /* all features of a model or of the host */
#define SHOWN_BYTES 80u	     /* the column of missing features */
#define ARCH "x86_64"

/* List the features that the host lacks for the model. An empty list means that a guest can have the model. */
static void lacks_list(const struct cpu_model *m, const struct host_cpu *host, char *text, size_t size)
{
	text[0] = 0;
	if (cpu_model_is_host(m->name))
		return;
	if (!host->is_virtual)
		snprintf(text, size, "a KVM that virtualises CPUID");
	else
		cpu_model_missing(m->name, host->supported, text, size);
}

/* List the names with a version that the model has, as in "Haswell-v1". */
static void versions_list(const struct cpu_model *m, char *text, size_t size)
{
	size_t used = 0;

	text[0] = 0;
	for (size_t i = 0; i < cpu_model_versions_n && used < size; i++)
		if (!strcmp(cpu_model_versions[i].model, m->name))
			used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", cpu_model_versions[i].name);
}

static void models_print(const struct host_cpu *host)
{
	static const char *const heads[] = { "Model", "Versions", "Vendor", "Usable", "Lacks" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < cpu_models_n; i++) {
		const struct cpu_model *m = &cpu_models[i];
		char lacks[SHOWN_BYTES], versions[SHOWN_BYTES];

		lacks_list(m, host, lacks, sizeof(lacks));
		versions_list(m, versions, sizeof(versions));
		table_add(&t, (const char *const[]){ m->name, versions[0] ? versions : "-", m->vendor ? m->vendor : "any",
			lacks[0] ? "no" : "yes", lacks[0] ? lacks : "-" });
	}
	table_finish(&t, stdout);
}

/* Turn "a, b" into ["a", "b"]. */
static struct json_object *list_to_json(const char *text)
{
	struct json_object *list = json_object_new_array();

	for (const char *at = text; *at;) {
		size_t len = strcspn(at, ",");

		json_object_array_add(list, json_object_new_string_len(at, (int)len));
		at += len + (at[len] ? 2 : 0);
	}
	return list;
}

static struct json_object *models_to_json(const struct host_cpu *host)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < cpu_models_n; i++) {
		const struct cpu_model *m = &cpu_models[i];
		struct json_object *o = json_object_new_object();
		char text[FEATURES_BYTES];

		js_put_str(o, "model", m->name);
		if (m->vendor)
			js_put_str(o, "vendor", m->vendor);
		if (m->signature)
			js_put_int(o, "signature", m->signature);
		if (m->brand)
			js_put_str(o, "name", m->brand);
		versions_list(m, text, sizeof(text));
		json_object_object_add(o, "versions", list_to_json(text));
		lacks_list(m, host, text, sizeof(text));
		js_put_bool(o, "usable", !text[0]);
		json_object_object_add(o, "lacks", list_to_json(text));
		cpu_model_features(m->name, host->supported, text, sizeof(text));
		json_object_object_add(o, "features", list_to_json(text));
		json_object_array_add(list, o);
	}
	return list;
}

int verb_cpu_models(struct cli *c)
{
	struct host_cpu host;
	struct err e;
	int r;

	if (c->npos && strcmp(c->pos[0], ARCH)) {
		err_set(&e, -EINVAL, ERR_INVALID, "\"%.40s\" is not an architecture of guests; VMs have " ARCH, c->pos[0]);
		return cli_fail(&e, "Failed to list processor models");
	}
	r = host_cpu_read(&host, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to list processor models");
	if (c->format == CLI_TABLE) {
		models_print(&host);
	} else {
		CLEANUP_JS struct json_object *list = models_to_json(&host);

		output_print(stdout, c->format, list);
	}
	host_cpu_done(&host);
	return CLI_OK;
}
