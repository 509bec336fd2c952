/* A module of PAM that does, for some users, what modules must not do. Others pass on to the next module. */
#include <security/pam_modules.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ask the user. Returns PAM_IGNORE; or the error of the program that asked for the login. */
static int question(pam_handle_t *h, int style, const char *text)
{
	const struct pam_message m = { style, text }, *list = &m;
	struct pam_response *answer = NULL;
	const struct pam_conv *conv = NULL;
	int status = pam_get_item(h, PAM_CONV, (const void **)&conv);

	if (status != PAM_SUCCESS || !conv)
		return PAM_SYSTEM_ERR;
	status = conv->conv(1, &list, &answer, conv->appdata_ptr);
	free(answer ? answer->resp : NULL);
	free(answer);
	return status == PAM_SUCCESS ? PAM_IGNORE : status;
}

int pam_sm_authenticate(pam_handle_t *h, int flags, int argc, const char **argv)
{
	const char *user = "";

	(void)flags;
	(void)argc;
	(void)argv;
	pam_get_user(h, &user, NULL);
	if (!strcmp(user, "crash"))
		abort();
	if (!strcmp(user, "leave"))
		_exit(0);
	if (!strcmp(user, "factor"))
		return question(h, PAM_PROMPT_ECHO_ON, "Code: ");
	if (!strcmp(user, "hidden"))
		return question(h, PAM_PROMPT_ECHO_OFF, "Code: ") == PAM_IGNORE ? PAM_AUTH_ERR : PAM_SYSTEM_ERR;
	if (!strcmp(user, "spin"))
		for (;;)
			;
	if (!strcmp(user, "hang")) { /* with a process of its own */
		signal(SIGTERM, SIG_IGN);
		fork();
		for (;;)
			sleep(1000);
	}
	return PAM_IGNORE;
}

int pam_sm_setcred(pam_handle_t *h, int flags, int argc, const char **argv)
{
	(void)h;
	(void)flags;
	(void)argc;
	(void)argv;
	return PAM_IGNORE;
}
