#include "api/store/paths.h"
#include "api/wire/listen.h"
#include "base/err.h"
#include "base/home.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int path_put(char *buf, size_t size, struct err *e, const char *a, const char *b)
{
	if (snprintf(buf, size, "%s%s", a, b) >= (int)size)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "%s%s is too long a path", a, b);
	return 0;
}

static const char *path_from_env(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

/* The XDG specification requires programs to ignore relative paths. */
static const char *env_folder(const char *name)
{
	const char *v = path_from_env(name);

	return v && *v == '/' ? v : NULL;
}

#define SYSTEM_STATE_DIR "/var/lib/cairn"

static int system_state_dir(char *buf, size_t size, struct err *e)
{
	bool denied = access(SYSTEM_STATE_DIR, W_OK) < 0 && (errno != ENOENT || access("/var/lib", W_OK) < 0) && (errno == EACCES || errno == EROFS);

	if (denied)
		return err_set(e, -errno, ERR_PERMISSION, SYSTEM_STATE_DIR ": %s; this root, perhaps of a user namespace, may not write there: give other "
			"places with --state-dir and --socket", strerror(errno));
	return path_put(buf, size, e, SYSTEM_STATE_DIR, "");
}

static int default_state_dir(char *buf, size_t size, struct err *e)
{
	const char *xdg = env_folder("XDG_STATE_HOME"), *home = env_folder("HOME");

	if (geteuid() == 0)
		return system_state_dir(buf, size, e);
	if (xdg)
		return path_put(buf, size, e, xdg, "/cairn");
	if (home)
		return path_put(buf, size, e, home, "/.local/state/cairn");
	return err_set(e, -ENOENT, ERR_NOT_FOUND,
		"neither XDG_STATE_HOME nor HOME is set; use --state-dir");
}

/* need: as for access(2): of the folder, or, if that has to be made, of the one above. */
static int default_run_dir(char *buf, size_t size, int need, struct err *e)
{
	const char *xdg = env_folder("XDG_RUNTIME_DIR");
	int r = xdg ? path_put(buf, size, e, xdg, "/cairn") : 0;

	if (geteuid() == 0)
		return path_put(buf, size, e, "/run/cairn", "");
	if (xdg && !r && access(buf, need) < 0 && (errno == EACCES || (errno == ENOENT && access(xdg, need) < 0 && errno == EACCES)))
		return err_set(e, -EACCES, ERR_PERMISSION, "XDG_RUNTIME_DIR is %s, where you may not use a folder cairn; unset the variable, or "
			"set it to a folder of yours", xdg);
	if (xdg)
		return r;
	/* Without XDG_RUNTIME_DIR use the state folder, which other users cannot read either. */
	if (default_state_dir(buf, size, e) < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"neither XDG_RUNTIME_DIR nor HOME is set; set CAIRN_SOCKET to the path of the socket");
	return strlen(buf) + 5 > size ? -ENAMETOOLONG : (strcat(buf, "/run"), 0);
}

static int socket_check(const char *path, struct err *e)
{
	if (strlen(path) > LISTEN_PATH_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID,
			"%.200s: a socket's path has at most %d bytes, this one %zu; set CAIRN_SOCKET to a "
			"shorter path",
			path, LISTEN_PATH_MAX, strlen(path));
	return 0;
}

int paths_client_socket(const char *option, char *buf, size_t size, struct err *e)
{
	char dir[PATH_MAX];
	int r;

	if (option || path_from_env("CAIRN_SOCKET"))
		r = path_put(buf, size, e, option ? option : path_from_env("CAIRN_SOCKET"), "");
	else if ((r = default_run_dir(dir, sizeof(dir), X_OK, e)) == 0)
		r = path_put(buf, size, e, dir, "/cairn.sock");
	return r < 0 ? r : socket_check(buf, e);
}

static bool program_in(const char *dir, const char *sub, const char *name, char *buf, size_t size)
{
	return snprintf(buf, size, "%s%s%s", dir, sub, name) < (int)size && access(buf, X_OK) == 0;
}

int paths_self(char buf[PATH_MAX], struct err *e)
{
	ssize_t n = readlink("/proc/self/exe", buf, PATH_MAX - 1);

	if (n < 0 && errno == ENOENT)
		return err_set(e, -ENOSYS, ERR_HOST, "/proc is not mounted; as root: mount -t proc proc /proc");
	if (n < 0)
		return err_set_errno(e, -errno, "/proc/self/exe");
	buf[n] = 0;
	return 0;
}

/* Get the folder of the running program, with a slash at its end. */
static int own_folder(char self[PATH_MAX], struct err *e)
{
	int r = paths_self(self, e);

	if (!r)
		strrchr(self, '/')[1] = 0;
	return r;
}

int paths_shared(const char *name, char *buf, size_t size, struct err *e)
{
	char self[PATH_MAX], beside[PATH_MAX], *slash;
	int r = own_folder(self, e);

	if (r < 0)
		return r;
	strcpy(beside, self);
	self[strlen(self) - 1] = 0;
	slash = strrchr(self, '/'); /* the prefix, as text that a user knows again */
	if (slash)
		slash[1] = 0;
	if (snprintf(buf, size, "%sshare/cairn/%s", self, name) < (int)size && access(buf, R_OK) == 0)
		return 0;
	if (snprintf(buf, size, "%s%s", beside, name) < (int)size && access(buf, R_OK) == 0)
		return 0;
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "%.200sshare/cairn/%s does not exist", self, name);
}

int paths_helper(const char *name, char *buf, size_t size, struct err *e)
{
	const char *libexec = path_from_env("CAIRN_LIBEXEC");
	char self[PATH_MAX];
	int r;

	if (libexec && program_in(libexec, "/", name, buf, size))
		return 0;
	r = own_folder(self, e);
	if (r < 0)
		return r;
	if (program_in(self, "", name, buf, size) ||
		program_in(self, "../libexec/cairn/", name, buf, size))
		return 0;
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "%s is neither in %.150s nor in %.150s../libexec/cairn; install it, on Debian with the package %s",
		name, self, self, !strcmp(name, "cairn-img") || !strcmp(name, "cairn-web") ? name : "cairn");
}

/* cairn-img is a program of users: it is beside the daemon in a build, and in ../bin where both are installed. */
static void img_program(char *buf, size_t size)
{
	char self[PATH_MAX];

	if (paths_helper("cairn-img", buf, size, NULL) < 0 &&
		(own_folder(self, NULL) < 0 || !program_in(self, "../bin/", "cairn-img", buf, size)))
		snprintf(buf, size, "cairn-img");
}

/* fallback: below home_folder(). */
static int path_of_user(const char *variable, const char *fallback, const char *name, char *buf, size_t size, struct err *e)
{
	const char *xdg = env_folder(variable), *home = home_folder();
	int n;

	if (!xdg && !home)
		return err_set(e, -ENOENT, ERR_INVALID, "there is no folder for %s; set %s or HOME", name, variable);
	n = snprintf(buf, size, "%s%s/cairn/%s", xdg ? xdg : home, xdg ? "" : fallback, name);
	return (size_t)n >= size ? err_set_errno(e, -ENAMETOOLONG, "the folder for %s", name) : 0;
}

int paths_cache(const char *name, char *buf, size_t size, struct err *e)
{
	return path_of_user("XDG_CACHE_HOME", "/.cache", name, buf, size, e);
}

int paths_data(const char *name, char *buf, size_t size, struct err *e)
{
	return path_of_user("XDG_DATA_HOME", "/.local/share", name, buf, size, e);
}

int paths_vm_program(const char *option, char *buf, size_t size, struct err *e)
{
	int r;

	if (option || path_from_env("CAIRN_VM"))
		return path_put(buf, size, e, option ? option : path_from_env("CAIRN_VM"), "");
	r = paths_helper("cairn-vm", buf, size, e);
	if (r == -ENOENT && e && strlen(e->msg) + 20 < sizeof(e->msg))
		strcat(e->msg, "; use --vm-program");
	return r;
}

static int path_is_absolute(const char *path, char *buf, size_t size, struct err *e)
{
	char cwd[PATH_MAX];

	if (*path == '/')
		return path_put(buf, size, e, path, "");
	if (!getcwd(cwd, sizeof(cwd)))
		return err_set_errno(e, -errno, "the present folder");
	if (snprintf(buf, size, "%s/%s", cwd, path) >= (int)size)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "%s is too long a path", path);
	return 0;
}

/* Derive the folder of the VMs' QMP sockets from the daemon's socket: /run/cairn/cairn.qmp for
 * /run/cairn/cairn.sock. */
static int qmp_dir_name(struct daemon_paths *p, struct err *e)
{
	int r = path_is_absolute(p->socket, p->qmp_dir, sizeof(p->qmp_dir) - 5, e);
	char *dot;

	if (r < 0)
		return r;
	dot = strrchr(p->qmp_dir, '.');
	if (dot && !strcmp(dot, ".sock"))
		*dot = 0;
	strcat(p->qmp_dir, ".qmp");
	return 0;
}

int paths_for_daemon(const char *state_dir, const char *socket, const char *vm_program,
	struct daemon_paths *p, struct err *e)
{
	char dir[PATH_MAX];
	int r;

	memset(p, 0, sizeof(*p));
	p->listening = -1;
	p->system = geteuid() == 0 && !state_dir;
	r = state_dir ? path_is_absolute(state_dir, p->state_dir, sizeof(p->state_dir), e) :
			default_state_dir(p->state_dir, sizeof(p->state_dir), e);
	if (!r && !state_dir && (r = default_run_dir(dir, sizeof(dir), W_OK | X_OK, e)) == 0)
		r = path_put(p->run_dir, sizeof(p->run_dir), e, dir, "/vms");
	/* With --state-dir, the sockets of VMs lie in the state folder, so that the daemon finds no other daemon's VMs.
	 * A user's lie there, too, because the runtime folder is removed at the end of the user's last session. Older
	 * daemons used it. */
	if (!r && state_dir)
		r = path_put(p->run_dir, sizeof(p->run_dir), e, p->state_dir, "/run");
	else if (!r && !p->system && access(p->run_dir, F_OK) < 0)
		r = path_put(p->run_dir, sizeof(p->run_dir), e, p->state_dir, "/run/vms");
	if (!r)
		r = paths_client_socket(socket, p->socket, sizeof(p->socket), e);
	if (!r)
		r = qmp_dir_name(p, e);
	if (!r)
		r = paths_vm_program(vm_program, p->vm_program, sizeof(p->vm_program), e);
	/* A missing helper is no error here: only export, import, comparisons of snapshots, networks, changes of
	 * volumes and starts of VMs with a user network fail later, and other users' files are opened without
	 * supplementary groups, or VMs have no logs or no scopes. */
	if (!r && paths_helper("cairn-archive", p->archive_program, sizeof(p->archive_program), NULL) < 0)
		snprintf(p->archive_program, sizeof(p->archive_program), "cairn-archive");
	if (!r && paths_helper("cairn-diff", p->diff_program, sizeof(p->diff_program), NULL) < 0)
		snprintf(p->diff_program, sizeof(p->diff_program), "cairn-diff");
	if (!r && paths_helper("cairn-slirp", p->slirp_program, sizeof(p->slirp_program), NULL) < 0)
		snprintf(p->slirp_program, sizeof(p->slirp_program), "cairn-slirp");
	if (!r && paths_helper("cairn-publish", p->publish_program, sizeof(p->publish_program), NULL) < 0)
		snprintf(p->publish_program, sizeof(p->publish_program), "cairn-publish");
	if (!r && paths_helper("cairn-groups", p->groups_program, sizeof(p->groups_program), NULL) < 0)
		snprintf(p->groups_program, sizeof(p->groups_program), "cairn-groups");
	if (!r && paths_helper("cairn-log", p->log_program, sizeof(p->log_program), NULL) < 0)
		snprintf(p->log_program, sizeof(p->log_program), "cairn-log");
	if (!r && paths_helper("cairn-net", p->net_program, sizeof(p->net_program), NULL) < 0)
		snprintf(p->net_program, sizeof(p->net_program), "cairn-net");
	if (!r && paths_helper("cairn-scope", p->scope_program, sizeof(p->scope_program), NULL) < 0)
		snprintf(p->scope_program, sizeof(p->scope_program), "cairn-scope");
	if (!r && paths_helper("cairn-hook", p->hook_program, sizeof(p->hook_program), NULL) < 0)
		snprintf(p->hook_program, sizeof(p->hook_program), "cairn-hook");
	if (!r && paths_helper("cairn-webhook", p->webhook_program, sizeof(p->webhook_program), NULL) < 0)
		snprintf(p->webhook_program, sizeof(p->webhook_program), "cairn-webhook");
	if (!r)
		img_program(p->img_program, sizeof(p->img_program));
	if (!r)
		r = p->system ? path_put(p->hooks_dir, sizeof(p->hooks_dir), e, "/etc/cairn/hooks", "") :
				path_put(p->hooks_dir, sizeof(p->hooks_dir), e, p->state_dir, "/hooks");
	return r;
}
