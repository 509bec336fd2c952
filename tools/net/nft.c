#include "tools/net/nft.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <nftables/libnftables.h>

struct nft {
	struct nft_ctx *ctx;
};

struct nft *nft_open(void)
{
	struct nft *n = must_alloc(calloc(1, sizeof(*n)));

	n->ctx = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!n->ctx || nft_ctx_buffer_output(n->ctx) || nft_ctx_buffer_error(n->ctx)) {
		nft_close(n);
		return NULL;
	}
	return n;
}

void nft_close(struct nft *n)
{
	if (n && n->ctx)
		nft_ctx_free(n->ctx);
	free(n);
}

/* libnftables returns its error as text alone: its first line, "Error: what: why". */
static int nft_failed(struct nft *n, struct err *e)
{
	const char *text = nft_ctx_get_error_buffer(n->ctx);
	const char *why = text && *text ? text : "Error: unknown";
	int len = (int)strcspn(why, "\n");

	if (strstr(why, strerror(EPERM)) || strstr(why, strerror(EACCES)))
		return err_set(e, -EPERM, ERR_PERMISSION, "nftables: %.*s; run cairnd as root (CAP_NET_ADMIN)", len, why);
	if (strstr(why, strerror(EPROTONOSUPPORT)) || strstr(why, strerror(EAFNOSUPPORT)) || strstr(why, strerror(EOPNOTSUPP)))
		return err_set(e, -EOPNOTSUPP, ERR_HOST, "nftables: %.*s; the kernel needs nf_tables with NAT and the families inet "
			"and bridge (modprobe nf_tables nf_tables_bridge nft_masq)", len, why);
	return err_set(e, -EIO, ERR_HOST, "nftables: %.*s", len, why);
}

int nft_run(struct nft *n, const char *commands, struct err *e)
{
	nft_ctx_output_set_flags(n->ctx, 0);
	return nft_run_cmd_from_buffer(n->ctx, commands) ? nft_failed(n, e) : 0;
}

int nft_list(struct nft *n, const char *command, struct json_object **ret_owner, struct json_object **ret, struct err *e)
{
	const char *text;
	int r;

	nft_ctx_output_set_flags(n->ctx, NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_HANDLE);
	if (nft_run_cmd_from_buffer(n->ctx, command))
		return nft_failed(n, e);
	text = nft_ctx_get_output_buffer(n->ctx);
	r = js_parse(text, strlen(text), "nftables", ret_owner, e);
	if (r < 0)
		return r;
	*ret = js_get_array(*ret_owner, "nftables");
	return *ret ? 0 : err_set(e, -EIO, ERR_HOST, "nftables answered without a list");
}

int nft_has_bridge_table(struct nft *n, const char *table, bool *ret, struct err *e)
{
	CLEANUP_JS struct json_object *owner = NULL;
	struct json_object *all;
	int r = nft_list(n, "list tables bridge", &owner, &all, e);

	*ret = false;
	for (size_t i = 0; !r && i < json_object_array_length(all); i++)
		*ret |= !strcmp(js_get_str_or(js_get(json_object_array_get_idx(all, i), "table"), "name", ""), table);
	return r;
}

int nft_bridge_elements(struct nft *n, const char *table, const char *kind, const char *name,
	struct json_object **ret_owner, struct json_object **ret, struct err *e)
{
	struct json_object *all;
	char command[200];
	int r;

	snprintf(command, sizeof(command), "list %s bridge %s %s", kind, table, name);
	r = nft_list(n, command, ret_owner, &all, e);
	*ret = NULL;
	for (size_t i = 0; !r && i < json_object_array_length(all) && !*ret; i++)
		*ret = js_get_array(js_get(json_object_array_get_idx(all, i), kind), "elem");
	return r;
}

bool nft_name_is_plain(const char *name)
{
	if (!isalpha((unsigned char)*name) && *name != '_')
		return false;
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("_-./", *c))
			return false;
	return true;
}
