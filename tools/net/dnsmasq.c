#include "tools/net/dnsmasq.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "tools/net/daemon_process.h"
#include "tools/net/dnsmasq_config.h"
#include "tools/net/jail.h"
#include "tools/net/subnet.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM "dnsmasq"
#define USER "dnsmasq"
#define PATHS "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"
/* Ids for hosts without that user: systemd's range of dynamic ones. */
#define UID_FIRST 61184
#define UID_COUNT 4336
#define NOGROUP 65534
/* ---- the program and its user ---- */

static int program_find(char *buf, size_t size)
{
	const char *env = getenv("PATH");
	char dirs[1024];

	snprintf(dirs, sizeof(dirs), "%s", env && *env ? env : PATHS);
	for (char *save, *dir = strtok_r(dirs, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
		snprintf(buf, size, "%s/" PROGRAM, dir);
		if (*dir == '/' && access(buf, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

int dnsmasq_check_installed(struct err *e)
{
	char path[PATH_MAX];

	if (program_find(path, sizeof(path)) == 0)
		return 0;
	return err_set(e, -ENOENT, ERR_HOST, "a network with DHCP or DNS needs dnsmasq; install it with: apt install dnsmasq-base");
}

/* Read the user from /etc/passwd itself: the user database may hang. */
static void user_find(const struct network *n, uid_t *uid, gid_t *gid)
{
	FILE *f = fopen("/etc/passwd", "re");
	unsigned start;

	for (struct passwd *p; f && (p = fgetpwent(f));)
		if (!strcmp(p->pw_name, USER) && p->pw_uid) {
			*uid = p->pw_uid;
			*gid = p->pw_gid;
			fclose(f);
			return;
		}
	if (f)
		fclose(f);
	start = (unsigned)(n->veth_mac[4] << 8 | n->veth_mac[5]);
	for (unsigned i = 0; i < UID_COUNT; i++) {
		*uid = UID_FIRST + (start + i) % UID_COUNT;
		errno = 0;
		if (getpriority(PRIO_USER, *uid) == -1 && errno == ESRCH)
			break;
	}
	*gid = NOGROUP;
}

/* ---- the process ---- */

static const struct daemon_process process = { PROGRAM, "dnsmasq.pid" };

int dnsmasq_stop(const struct request *req, struct err *e)
{
	return daemon_process_stop(&process, req, e);
}

/* ---- addresses ---- */

/* Take the address of the last start, if it is still possible, or choose one. */
static int address_choose(const struct subnet *s, const struct address *last, struct address *ret, struct err *e)
{
	if (!s->given)
		return 0;
	if (last->family && subnet_service_is_valid(s, last)) {
		*ret = *last;
		return 0;
	}
	return subnet_service_choose(s, ret, e);
}

void dnsmasq_addresses(const struct request *req, struct service *ret)
{
	char text[2][ADDRESS_TEXT_MAX] = { "", "" };
	CLEANUP_FREE char *content = NULL;
	struct request_path path;
	size_t len;

	memset(ret, 0, sizeof(*ret));
	if (file_read(request_path(req, "service", &path), 256, &content, &len, NULL) < 0 ||
		sscanf(content, "%45s %45s", text[0], text[1]) < 1)
		return;
	for (size_t i = 0; i < 2; i++) {
		struct address a;

		if (!address_parse(text[i], AF_UNSPEC, &a))
			*(a.family == AF_INET ? &ret->ipv4 : &ret->ipv6) = a;
	}
}

static int service_write(const struct dnsmasq *d, struct err *e)
{
	char text[2 * ADDRESS_TEXT_MAX + 4] = "", buf[ADDRESS_TEXT_MAX];
	struct service old;
	struct request_path path;

	dnsmasq_addresses(d->req, &old);
	if (!memcmp(&old, &d->service, sizeof(old)))
		return 0;
	if (d->service.ipv4.family)
		snprintf(text, sizeof(text), "%s", address_print(&d->service.ipv4, buf));
	if (d->service.ipv6.family)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", *text ? " " : "", address_print(&d->service.ipv6, buf));
	strcat(text, "\n");
	return file_write_atomic(request_path(d->req, "service", &path), text, strlen(text), 0644, e);
}

int dnsmasq_init(struct dnsmasq *d, const struct request *req, struct err *e)
{
	struct service last;
	int r;

	memset(d, 0, sizeof(*d));
	d->req = req;
	d->pid = daemon_process_find(&process, req);
	if (!network_has_dnsmasq(&req->net))
		return 0;
	user_find(&req->net, &d->uid, &d->gid);
	dnsmasq_addresses(req, &last);
	r = address_choose(&req->net.ipv4, &last.ipv4, &d->service.ipv4, e);
	return r ? r : address_choose(&req->net.ipv6, &last.ipv6, &d->service.ipv6, e);
}

/* ---- files ---- */

static int folder_make(const char *path, mode_t mode, struct err *e)
{
	struct stat st;

	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_set_errno(e, -errno, "%s", path);
	if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, ERR_INVALID, "%s is no folder", path);
	return 0;
}

/* Give the file with leases, and its folder, to dnsmasq's user. The group stays root's, so that root can read it. */
static int leases_make(const struct dnsmasq *d, struct err *e)
{
	struct request_path dir, path;
	CLEANUP_CLOSE int folder = -1;
	CLEANUP_CLOSE int fd = -1;
	struct stat st;
	int r = folder_make(request_path(d->req, "dnsmasq/state", &dir), 0770, e);

	if (r < 0)
		return r;
	folder = open(dir.text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	fd = open(request_path(d->req, "dnsmasq/" LEASES, &path), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0660);
	if (folder < 0 || fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path.text);
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s is no plain file; remove it", path.text);
	if (fchown(folder, d->uid, 0) < 0 || (st.st_uid != d->uid && fchown(fd, d->uid, 0) < 0))
		return errno == EINVAL ? err_set(e, -EINVAL, ERR_HOST, "dnsmasq: this user namespace maps no user %u; map it, or use a "
			"network without DHCP and DNS", (unsigned)d->uid) : err_set_errno(e, -errno, "%s", path.text);
	return 0;
}

static int printed_write(const struct request *req, const char *name, void (*print)(FILE *, const struct network *), struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f)
		print(f, &req->net);
	if (!f || fclose(f))
		return err_set_errno(e, -ENOMEM, "%s", name);
	return request_text_write(req, name, text, len, e);
}

static int config_write(const struct dnsmasq *d, const char *resolv, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	char name[128];

	snprintf(name, sizeof(name), "dnsmasq/%s", d->req->net.config);
	if (f)
		config_print(f, &d->req->net, &d->service, resolv);
	if (!f || fclose(f))
		return err_set_errno(e, -ENOMEM, "%s", name);
	return request_text_write(d->req, name, text, len, e);
}

static void resolv_note(const struct network *n, note_fn *note, void *arg)
{
	char text[400];

	snprintf(text, sizeof(text), "the host's name servers (/etc/resolv.conf) listen on loopback only, so guests of network '%s' can look up "
		"each other but nothing else; give the network's DNS a forwarder", n->name);
	note(arg, text);
}

int dnsmasq_write(const struct dnsmasq *d, bool *ret_same, note_fn *note, void *arg, struct err *e)
{
	const struct network *n = &d->req->net;
	const char *resolv = resolv_find();
	struct request_path path;
	int r;

	umask(0);
	if (n->dns && !resolv && !n->nforwarders && network_is_forwarded(n))
		resolv_note(n, note, arg);
	r = folder_make(request_path(d->req, "dnsmasq", &path), 0755, e);
	if (!r && n->ipv4.tftp_root)
		r = folder_make(request_path(d->req, "dnsmasq/" TFTP_FOLDER, &path), 0755, e);
	if (!r)
		r = leases_make(d, e);
	if (!r)
		r = service_write(d, e);
	if (!r)
		r = printed_write(d->req, "dnsmasq/" DHCP_HOSTS, dhcp_hosts_print, e);
	if (r >= 0)
		r = printed_write(d->req, "dnsmasq/" DNS_HOSTS, dns_hosts_print, e);
	if (r >= 0)
		r = config_write(d, resolv, e);
	*ret_same = !r;
	return r < 0 ? r : 0;
}

/* ---- start and stop ---- */

static int start(struct dnsmasq *d, int netns, struct links *l, int bridge, struct err *e)
{
	char program[PATH_MAX];
	struct request_path folder;
	const struct jail j = { .net = &d->req->net, .service = &d->service, .folder = request_path(d->req, "dnsmasq", &folder),
		.program = program, .uid = d->uid, .gid = d->gid, .netns = netns, .links = l, .bridge = bridge };
	int r = dnsmasq_check_installed(e);

	if (!r)
		r = program_find(program, sizeof(program));
	if (!r)
		r = daemon_process_note(&process, d->req, 0, e);
	if (!r)
		r = jail_start(&j, &d->pid, e);
	if (!r && !d->pid)
		d->pid = daemon_process_search(&process, d->req);
	return r ? r : daemon_process_note(&process, d->req, d->pid, e);
}

/* Delete a veth that an earlier start has left. */
static int veth_delete(const struct network *n, struct links *l, struct err *e)
{
	struct link link;
	int r = link_find(l, n->veth, &link, e);

	if (!r && link.index && !strcmp(link.kind, "veth"))
		r = link_delete(l, link.index, e);
	return r < 0 ? r : 0;
}

int dnsmasq_start(struct dnsmasq *d, struct links *l, int bridge, struct err *e)
{
	int r = dnsmasq_stop(d->req, e);

	d->pid = 0;
	if (r >= 0)
		r = veth_delete(&d->req->net, l, e);
	if (r >= 0)
		r = start(d, -1, l, bridge, e);
	if (r < 0) {
		dnsmasq_stop(d->req, NULL);
		veth_delete(&d->req->net, l, NULL);
	}
	return r;
}

int dnsmasq_restart(struct dnsmasq *d, struct err *e)
{
	CLEANUP_CLOSE int netns = -1;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)d->pid);
	netns = open(path, O_RDONLY | O_CLOEXEC);
	if (netns < 0)
		return err_set_errno(e, -errno, "dnsmasq's namespace");
	r = dnsmasq_stop(d->req, e);
	return r < 0 ? r : start(d, netns, NULL, 0, e);
}

int dnsmasq_reload(const struct dnsmasq *d, struct err *e)
{
	return kill(d->pid, SIGHUP) < 0 ? err_set_errno(e, -errno, "dnsmasq (process %d)", (int)d->pid) : 0;
}
