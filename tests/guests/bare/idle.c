/* A guest that halts, echoes its serial input, and powers off at the power button or at 'q'. */
#include "bare.h"

void program(uint64_t again)
{
	if (!again) {
		serial_init();
		button_init();
		print("idle\n");
	}
	while (!button_pressed()) {
		char c[16];
		size_t n;

		halt_unless(&button_presses, 0);
		if (!serial_ready())
			continue;
		n = serial_read(c, sizeof(c));
		for (size_t i = 0; i < n; i++) {
			if (c[i] == 'q')
				power_off();
			print("%c", c[i]);
		}
	}
	for (;;)
		power_off();
}
