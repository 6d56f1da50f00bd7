/* Sum of absolute weights per channel, in C without a library. With clang and lld:
 *   clang --target=wasm32 -O3 -nostdlib -fno-builtin -Wl,--no-entry -o l1.wasm l1.c
 * or with zig:
 *   zig cc -target wasm32-freestanding -O3 -nostdlib -fno-builtin -Wl,--no-entry -o l1.wasm l1.c
 */
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

/* How the module describes itself, for the custom section of this name. */
#define ABOUT(text) __asm__(".section .custom_section.yolo.plugin,\"\",@\n.ascii " #text "\n.text\n")
ABOUT("{\"kind\": \"metric\", \"name\": \"l1-c\", \"version\": \"1.0.0\", \"license\": \"MIT\", \"summary\": \"Sum of absolute weights, in C\"}");

/* One layer, as yolo lays it out in memory. */
struct layer {
    uint32_t size, channels, elements, index, count, stride;
    const float *weight; /* channels rows of elements numbers */
};

extern uint8_t __heap_base;
static uintptr_t top;

int32_t EXPORT(yolo_metric_abi)(void) { return 0x10000; }

int32_t EXPORT(yolo_needs)(void) { return 1; /* weights */ }

/* Memory from the end of the program upwards; nothing is freed, as every layer gets a fresh instance. */
void *EXPORT(yolo_alloc)(uint32_t bytes, uint32_t align) {
    if (!top) top = (uintptr_t)&__heap_base;
    uintptr_t at = (top + align - 1) & -(uintptr_t)align;
    uintptr_t lacking = at + bytes > __builtin_wasm_memory_size(0) << 16 ? at + bytes - (__builtin_wasm_memory_size(0) << 16) : 0;
    if (lacking && __builtin_wasm_memory_grow(0, (lacking + 65535) >> 16) == (uintptr_t)-1) return 0;
    top = at + bytes;
    return (void *)at;
}

int32_t EXPORT(yolo_score)(const struct layer *layer, float *out) {
    for (uint32_t channel = 0; channel < layer->channels; channel++) {
        const float *row = layer->weight + (uintptr_t)channel * layer->stride;
        float sum = 0;
        for (uint32_t i = 0; i < layer->elements; i++) sum += __builtin_fabsf(row[i]);
        out[channel] = sum;
    }
    return 0;
}
