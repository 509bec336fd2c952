/* A guest that does nothing: halts, echoes what comes on the serial port, and turns itself off
 * at the power button or at 'q'. */
#include "bare.h"

void program(uint64_t again)
{
	if (!again) {
		serial_init();
		button_init();
		print("idle\n");
	}
	for (;;) {
		char c[16];
		size_t n = serial_read(c, sizeof(c));

		for (size_t i = 0; i < n; i++) {
			if (c[i] == 'q')
				power_off();
			print("%c", c[i]);
		}
		if (button_pressed())
			power_off();
	}
}
