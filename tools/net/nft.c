#include "tools/net/nft.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/net/privileges.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>

struct nft {
	struct nft_ctx *ctx;
	unsigned seq;
};

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
		return err_set(e, -EPERM, ERR_PERMISSION, "nftables: %.*s; it requires CAP_NET_ADMIN; %s", len, why, privileges_remedy());
	if (strstr(why, strerror(EPROTONOSUPPORT)) || strstr(why, strerror(EAFNOSUPPORT)) || strstr(why, strerror(EOPNOTSUPP)))
		return err_set(e, -EOPNOTSUPP, ERR_HOST, "nftables: %.*s; the kernel needs nf_tables with NAT and the families inet "
			"and bridge (modprobe -a nf_tables nft_masq)", len, why);
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

int nft_print(struct nft *n, const char *command, const char **ret, struct err *e)
{
	nft_ctx_output_set_flags(n->ctx, 0);
	if (nft_run_cmd_from_buffer(n->ctx, command))
		return nft_failed(n, e);
	*ret = nft_ctx_get_output_buffer(n->ctx);
	return 0;
}

/* ---- questions to the kernel, without the library ---- */

#define ANSWER_BYTES (64 * KIB)
/* Another change of the ruleset interrupts a list; so many times it is begun again. */
#define TRIES_MAX 100

static struct nlmsghdr *question_begin(char *buf, uint16_t type, uint16_t flags, unsigned seq)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *m;

	h->nlmsg_type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type);
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	h->nlmsg_seq = seq;
	m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	*m = (struct nfgenmsg){ .nfgen_family = NFPROTO_BRIDGE, .version = NFNETLINK_V0 };
	return h;
}

/* Ask on a socket of the question's own, so that a list that was interrupted leaves no messages. Returns 0; -errno;
 * -EINTR: the list was interrupted. */
static int question_ask(const struct nlmsghdr *h, mnl_cb_t each, void *arg)
{
	struct mnl_socket *sock = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	CLEANUP_FREE char *buf = must_alloc(malloc(ANSWER_BYTES));
	int r = !sock || mnl_socket_bind(sock, 0, MNL_SOCKET_AUTOPID) < 0 || mnl_socket_sendto(sock, h, h->nlmsg_len) < 0 ? -errno : MNL_CB_OK;

	while (r > MNL_CB_STOP) {
		ssize_t got = mnl_socket_recvfrom(sock, buf, ANSWER_BYTES);

		r = got < 0 ? -1 : mnl_cb_run(buf, (size_t)got, h->nlmsg_seq, mnl_socket_get_portid(sock), each, arg);
		if (r < 0)
			r = -errno;
	}
	if (sock)
		mnl_socket_close(sock);
	return r;
}

static int question_failed(int r, const char *what, struct err *e)
{
	if (r == -EPERM || r == -EACCES)
		return err_set(e, r, ERR_PERMISSION, "nftables: %s requires CAP_NET_ADMIN; %s", what, privileges_remedy());
	return err_set_errno(e, r, "nftables: %s", what);
}

/* Ask for the number of the ruleset. Where the kernel has no nf_tables, the library ends the process without a sentence
 * for our caller. Returns 0; -errno with a sentence. */
static int kernel_check(struct err *e)
{
	char buf[256];
	int r = question_ask(question_begin(buf, NFT_MSG_GETGEN, NLM_F_ACK, 1), NULL, NULL);

	if (r == -EPROTONOSUPPORT || r == -EAFNOSUPPORT || r == -EOPNOTSUPP || r == -EINVAL)
		return err_set(e, r, ERR_HOST, "the kernel has no nf_tables (%s); load it with: modprobe nf_tables", strerror(-r));
	return r ? question_failed(r, "the kernel's ruleset", e) : 0;
}

struct nft *nft_open(struct err *e)
{
	struct nft *n;

	if (kernel_check(e))
		return NULL;
	n = must_alloc(calloc(1, sizeof(*n)));
	n->ctx = nft_ctx_new(NFT_CTX_DEFAULT);
	if (n->ctx && !nft_ctx_buffer_output(n->ctx) && !nft_ctx_buffer_error(n->ctx))
		return n;
	nft_close(n);
	err_set(e, -ENOMEM, ERR_HOST, "libnftables does not start");
	return NULL;
}

struct tables {
	struct nft_table *list; /* owned */
	size_t n;
};

static const char *family_word(unsigned family)
{
	switch (family) {
	case NFPROTO_INET:
		return "inet";
	case NFPROTO_IPV4:
		return "ip";
	case NFPROTO_IPV6:
		return "ip6";
	case NFPROTO_BRIDGE:
		return "bridge";
	case NFPROTO_ARP:
		return "arp";
	default:
		return "netdev";
	}
}

static int table_take(const struct nlmsghdr *h, void *arg)
{
	const struct nfgenmsg *m = mnl_nlmsg_get_payload(h);
	struct tables *all = arg;
	struct nft_table *next;
	const struct nlattr *a;

	all->list = must_alloc(realloc(all->list, (all->n + 1) * sizeof(*all->list)));
	next = &all->list[all->n++];
	memset(next, 0, sizeof(*next));
	snprintf(next->family, sizeof(next->family), "%s", family_word(m->nfgen_family));
	mnl_attr_for_each(a, h, sizeof(*m)) {
		if (mnl_attr_get_type(a) == NFTA_TABLE_NAME && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
			snprintf(next->name, sizeof(next->name), "%s", mnl_attr_get_str(a));
		else if (mnl_attr_get_type(a) == NFTA_TABLE_FLAGS && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			next->is_owned = ntohl(mnl_attr_get_u32(a)) & NFT_TABLE_F_OWNER;
	}
	return MNL_CB_OK;
}

int nft_tables(struct nft *n, struct nft_table **ret, size_t *ret_n, struct err *e)
{
	struct tables all = { NULL, 0 };
	int r = -EINTR;

	for (unsigned tries = 0; r == -EINTR && tries < TRIES_MAX; tries++) {
		char buf[256];
		struct nlmsghdr *h = question_begin(buf, NFT_MSG_GETTABLE, NLM_F_DUMP, ++n->seq);

		((struct nfgenmsg *)mnl_nlmsg_get_payload(h))->nfgen_family = NFPROTO_UNSPEC;
		all.n = 0;
		r = question_ask(h, table_take, &all);
	}
	if (r < 0) {
		free(all.list);
		return question_failed(r, "the list of tables", e);
	}
	*ret = all.list;
	*ret_n = all.n;
	return 0;
}

int nft_has_bridge_table(struct nft *n, const char *table, bool *ret, struct err *e)
{
	char buf[256];
	struct nlmsghdr *h = question_begin(buf, NFT_MSG_GETTABLE, NLM_F_ACK, ++n->seq);
	int r;

	mnl_attr_put_strz(h, NFTA_TABLE_NAME, table);
	r = question_ask(h, NULL, NULL);
	*ret = r == 0;
	return r && r != -ENOENT ? question_failed(r, table, e) : 0;
}

struct elements {
	struct nft_element *list; /* owned */
	size_t n;
};

/* Copy the bytes within an attribute NFTA_SET_ELEM_KEY or _DATA; the data of a verdict map have none. */
static size_t value_copy(const struct nlattr *a, uint8_t *to, size_t max)
{
	const struct nlattr *v;
	size_t len = 0;

	mnl_attr_for_each_nested(v, a)
		if (mnl_attr_get_type(v) == NFTA_DATA_VALUE && mnl_attr_get_payload_len(v) <= max)
			memcpy(to, mnl_attr_get_payload(v), len = mnl_attr_get_payload_len(v));
	return len;
}

static void element_take(struct elements *all, const struct nlattr *element)
{
	struct nft_element *next;
	const struct nlattr *a;

	if (!(all->n & (all->n - 1)))
		all->list = must_alloc(realloc(all->list, MAX(2 * all->n, 1) * sizeof(*all->list)));
	next = &all->list[all->n++];
	memset(next, 0, sizeof(*next));
	mnl_attr_for_each_nested(a, element) {
		if (mnl_attr_get_type(a) == NFTA_SET_ELEM_KEY)
			next->key_bytes = value_copy(a, next->key, sizeof(next->key));
		else if (mnl_attr_get_type(a) == NFTA_SET_ELEM_DATA)
			next->data_bytes = value_copy(a, next->data, sizeof(next->data));
	}
}

static int elements_take(const struct nlmsghdr *h, void *arg)
{
	const struct nlattr *a, *element;

	mnl_attr_for_each(a, h, sizeof(struct nfgenmsg))
		if (mnl_attr_get_type(a) == NFTA_SET_ELEM_LIST_ELEMENTS)
			mnl_attr_for_each_nested(element, a)
				element_take(arg, element);
	return MNL_CB_OK;
}

int nft_bridge_elements(struct nft *n, const char *table, const char *set, struct nft_element **ret, size_t *ret_n, struct err *e)
{
	struct elements all = { NULL, 0 };
	int r = -EINTR;

	for (unsigned tries = 0; r == -EINTR && tries < TRIES_MAX; tries++) {
		char buf[256];
		struct nlmsghdr *h = question_begin(buf, NFT_MSG_GETSETELEM, NLM_F_DUMP, ++n->seq);

		mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table);
		mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, set);
		all.n = 0;
		r = question_ask(h, elements_take, &all);
	}
	if (r < 0 || !all.n)
		free(STEAL_PTR(all.list));
	if (r < 0)
		return question_failed(r, set, e);
	*ret = all.list;
	*ret_n = all.n;
	return 0;
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
