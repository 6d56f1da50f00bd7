// Runs the kernels of ../../native/bn_act.cu.inc on the processor, so that their indexing and arithmetic are tested where there is no
// GPU: ../bn_act.rs compiles this with the kernels' text as KERNELS and one KIND, ACT, VEC, and compares the numbers with libtorch's.
//
// emulated N C PROCESSORS MOMENTUM EPS <in >out. In: x, dy [N, C] as stored; weight, bias, running mean, running variance [C] f32.
// Out: y, dx [N, C] as stored; gradients of weight and bias, running mean, running variance [C] f32.

#include "bn_act_plan.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

struct Index {
    int x, y;
};
static Index blockIdx, gridDim;

#define EMULATED
#define KERNEL static void
#define FINISH static void
#define DEVICE static inline
// As on the device, shared memory holds anything when a block starts: here what the block before has left.
#define SHARED static
#define SYNC (void)0
#define EACH_THREAD(t, count) for (int t = 0; t < (count); ++t)
#define EXP(x) expf(x)
#define DIVIDE(a, b) ((a) / (b))

static float emulated_from_f16(unsigned short bits) {
    const int exponent = bits >> 10 & 31;
    const int fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexpf(static_cast<float>(fraction), -24)
                                       : ldexpf(static_cast<float>(fraction + 1024), exponent - 25);
    return bits >> 15 ? -size : size;
}

// To nearest, ties to even, which is how the processor rounds a float to an integer.
static unsigned short emulated_to_f16(float value) {
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    const float size = fabsf(value);
    if (size != size) {
        return 0x7e00;
    }
    if (size >= 65520.0f) {
        return sign | 0x7c00;
    }
    int exponent = 0;
    frexpf(size, &exponent);
    const int scale = exponent - 11 < -24 ? -24 : exponent - 11;
    const int units = static_cast<int>(nearbyintf(ldexpf(size, -scale)));
    // A fraction that rounds up to 2048 carries into the exponent by itself.
    return sign | static_cast<unsigned short>(units + (scale + 24) * 1024);
}

#include KERNELS

static_assert(THREADS == yolo::BN_THREADS && GROUP == yolo::BN_GROUP && LANES == yolo::BN_LANES, "the plan is that of the kernels");

template <typename Body> static void grid(int columns, int blocks, Body body) {
    gridDim = {columns, blocks};
    for (int y = 0; y < blocks; ++y) {
        for (int x = 0; x < columns; ++x) {
            blockIdx = {x, y};
            body();
        }
    }
}

template <typename T> static std::vector<T> take(size_t count) {
    std::vector<T> values(count);
    if (fread(values.data(), sizeof(T), count, stdin) != count) {
        fprintf(stderr, "the input is too short\n");
        exit(1);
    }
    return values;
}

template <typename T> static void give(const std::vector<T> &values) { fwrite(values.data(), sizeof(T), values.size(), stdout); }

// A map whose first value is at a multiple of what a vector needs.
struct Map {
    std::vector<Pack> packs;
    size_t count;
    explicit Map(size_t values) : packs(values / VEC), count(values) {}
    stored *data() { return reinterpret_cast<stored *>(packs.data()); }
};

static Map take_map(size_t count) {
    Map map(count);
    const auto values = take<stored>(count);
    memcpy(map.data(), values.data(), count * sizeof(stored));
    return map;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        return 1;
    }
    const long long rows = atoll(argv[1]);
    const int channels = atoi(argv[2]);
    const long long wanted = atoll(argv[3]);
    const auto momentum = static_cast<float>(atof(argv[4]));
    const auto eps = static_cast<float>(atof(argv[5]));
    const size_t count = static_cast<size_t>(rows) * channels;

    Map x = take_map(count), dy = take_map(count), y(count), dx(count);
    const auto weight = take<float>(channels), bias = take<float>(channels);
    auto running_mean = take<float>(channels), running_var = take<float>(channels);

    const auto plan = yolo::bn_plan(rows, channels, VEC, wanted);
    std::vector<float> partial(static_cast<size_t>(plan.blocks) * 3 * channels, NAN);
    std::vector<float> mean(channels), invstd(channels), weight_grad(channels), bias_grad(channels);
    grid(plan.columns, plan.blocks, [&] { bn_stats(x.data(), partial.data(), rows, channels, plan.tx, plan.ty); });
    grid(plan.groups, 1, [&] {
        bn_stats_finish(partial.data(), plan.blocks, mean.data(), invstd.data(), running_mean.data(), running_var.data(), momentum, eps,
                        channels);
    });
    grid(plan.columns, plan.blocks, [&] {
        bn_apply(x.data(), weight.data(), bias.data(), mean.data(), invstd.data(), y.data(), rows, channels, plan.tx, plan.ty);
    });
    partial.assign(partial.size(), NAN);
    grid(plan.columns, plan.blocks, [&] {
        bn_grad_sums(x.data(), dy.data(), weight.data(), bias.data(), mean.data(), invstd.data(), partial.data(), rows, channels, plan.tx,
                     plan.ty);
    });
    grid(plan.groups, 1, [&] { bn_grad_finish(partial.data(), plan.blocks, weight_grad.data(), bias_grad.data(), channels); });
    grid(plan.columns, plan.blocks, [&] {
        bn_grad_input(x.data(), dy.data(), weight.data(), bias.data(), mean.data(), invstd.data(), weight_grad.data(), bias_grad.data(),
                      dx.data(), rows, channels, plan.tx, plan.ty);
    });

    give(std::vector<stored>(y.data(), y.data() + count));
    give(std::vector<stored>(dx.data(), dx.data() + count));
    give(weight_grad);
    give(bias_grad);
    give(running_mean);
    give(running_var);
    return fflush(stdout) == 0 ? 0 : 1;
}
