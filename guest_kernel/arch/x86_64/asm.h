/* How assembly files name their functions, so that symbolisers know where each begins and ends. */
#pragma once

#define FUNCTION(name) \
    .global name; \
    .type name, @function; \
    name:
#define END(name) .size name, . - name
