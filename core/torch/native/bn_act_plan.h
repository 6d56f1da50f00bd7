// How the kernels of bn_act.cu.inc are laid over a map of [rows, channels]. Plain C++, so that the tests use the same numbers.
#pragma once

#include <algorithm>
#include <cstdint>

namespace yolo {

// As in bn_act.cu.inc.
constexpr int BN_THREADS = 256;
constexpr int BN_GROUP = 8;
constexpr int BN_LANES = 64;

struct BnPlan {
    // Vectors of channels in a block, rows of them; grid of the kernels over the map, and of those that finish a reduction.
    int tx, ty;
    int columns, blocks;
    int groups;
};

// `vec` values in a vector; about `wanted` blocks in all, fewer where the map is too small to keep them busy.
inline BnPlan bn_plan(int64_t rows, int64_t channels, int vec, int64_t wanted) {
    constexpr int WIDEST = 32;
    constexpr int ROWS_OF_A_THREAD = 4;
    const int vectors = static_cast<int>(channels / vec);
    const int tiles = (vectors + WIDEST - 1) / WIDEST;
    BnPlan plan{};
    plan.tx = (vectors + tiles - 1) / tiles;
    plan.ty = BN_THREADS / plan.tx;
    plan.columns = (vectors + plan.tx - 1) / plan.tx;
    const int64_t of_a_block = static_cast<int64_t>(plan.ty) * ROWS_OF_A_THREAD;
    const int64_t useful = (rows + of_a_block - 1) / of_a_block;
    plan.blocks = static_cast<int>(std::max<int64_t>(1, std::min(useful, wanted / plan.columns)));
    plan.groups = static_cast<int>((channels + BN_GROUP - 1) / BN_GROUP);
    return plan;
}

} // namespace yolo
