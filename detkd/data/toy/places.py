"""The fourteen places, one function each (see `scenes` for the vocabulary)."""

from __future__ import annotations

from collections.abc import Callable

from detkd.data.toy import scenes as s
from detkd.data.toy.camera import Camera
from detkd.data.toy.scenes import Scene

__all__ = ["PLACES"]


def crossing() -> Scene:
    scene = Scene(Camera(5.5, 0, 7.0, -14, 23, 57), s.GRASS, sun=205)
    scene.road(0, 4.2, -5, 120)
    scene.road(25, 4.2, -70, 70, across=True)
    scene.area(s.ASPHALT, -4.2, 18, 4.2, 33)
    scene.zebra(-4.2, 15, 4.2, 18)
    scene.building(-26, 33, -8, 50, 14, s.BRICK)
    scene.building(8.5, 33, 26, 46, 11, s.SAND)
    scene.building(-30, 4, -9, 17, 9, s.GREY)
    scene.prop("lamp", (-5.2, 12), (5.4, 31), (-14, 31), (-5.2, 40))
    scene.prop("tree", (-8.2, 20), (12, 31.5), (-6.8, 30.8), size=0.8)
    scene.prop("signal", (-4.9, 18.8), (4.9, 19))
    scene.prop("bin", (-5.6, 14), (6, 20))
    scene.prop("hydrant", (-4.9, 10.5))
    return scene


def car_park() -> Scene:
    scene = Scene(Camera(-3, 0, 8.0, 8, 27, 60), s.ASPHALT, sun=150)
    scene.area(s.GRASS, -60, 44, 70, 140)
    scene.bays(-18, 20, 9, 14)
    scene.bays(-22, 24, 20, 25, heading=270)
    scene.bays(-22, 24, 25, 30)
    scene.bays(-26, 30, 36.5, 41.5, heading=270)
    scene.spawn("drive", -22, 16, 24, 16, 0)
    scene.spawn("drive", -22, 18.4, 24, 18.4, 180)
    scene.spawn("drive", -24, 33, 28, 33, 180)
    scene.spawn("walk", -16, 7, 16, 7, 0, 1.0)
    scene.spawn("walk", -20, 17, 22, 17, 180, 2.0)
    scene.spawn("ride", -20, 19, 22, 19, 180)
    scene.spawn("ride", -20, 34.5, 22, 34.5, 0)
    scene.spawn("rack", -12, 7.4, -7, 7.4, 80)
    scene.building(-30, 56, 34, 72, 10, s.PALE)
    scene.prop("lamp", (-9, 25), (9, 25), (20, 43), (-20, 43))
    scene.prop("tree", (-24, 46), (-10, 47), (4, 46), (16, 47), (27, 46), size=0.9)
    scene.prop("cart", (4.4, 7.4), (5.2, 7.2), (14, 31.4))
    scene.prop("bush", (-22, 43), (-12, 43.2), (10, 43))
    scene.fences.append(((-40, 50, 45, 50), 1.3))
    return scene


def alley() -> Scene:
    scene = Scene(Camera(1.6, 0, 4.6, -6, 20, 62), s.CONCRETE, sun=100)
    scene.road(0, 2.6, -4, 90, walk=1.3, lanes=1, dashes=False)
    scene.building(-16, 3, -4.2, 22, 10, s.BRICK)
    scene.building(-16, 22, -4.6, 60, 8, s.GREY)
    scene.building(4.2, 9, 18, 34, 9, s.SLATE)
    scene.building(4.8, 34, 18, 70, 12, s.SAND)
    scene.building(-20, 80, 20, 90, 15, s.PALE)
    scene.prop("bin", (-3.6, 10), (-3.6, 11), (3.7, 19), (3.7, 28))
    scene.prop("crate", (3.6, 14), (-3.7, 24))
    scene.prop("lamp", (-3.5, 16), (3.6, 36))
    scene.spawn("walk", 0, 5, 0, 60, 90, 1.8)
    scene.spawn("rack", -3.2, 7, -3.2, 20, 90, 0.1)
    scene.spawn("park", 1.4, 12, 1.4, 50, 90, 0.1)
    return scene


def shop() -> Scene:
    scene = Scene(Camera(-4, 0, 4.0, 20, 19, 64), s.PAVING, sun=60)
    scene.road(14.5, 4.0, -60, 80, across=True, walk=3)
    scene.building(-24, 22, 2, 34, 8, s.SAND)
    scene.building(2.3, 21.8, 17, 34, 11, s.BRICK)
    scene.building(17.2, 22, 40, 34, 7, s.TEAL)
    scene.spawn("walk", -5, 6, 14, 6, 0, 1.8)
    scene.spawn("rack", 2, 8.6, 9, 8.6, 60, 0.2)
    scene.spawn("park", -6, 17.4, 26, 17.4, 180, 0.1)
    scene.prop("lamp", (-0.5, 9.3), (15, 9.3))
    scene.prop("tree", (7, 20.2), (21, 20.2), size=0.6)
    scene.prop("bin", (-1.4, 8.2))
    scene.prop("stand", (3, 4.6), (-3, 8))
    scene.prop("bollard", (-5, 10), (-3, 10), (1.5, 10), (3.5, 10), (5.5, 10), (7.5, 10))
    scene.prop("hydrant", (10.5, 9.4))
    return scene


def highway() -> Scene:
    scene = Scene(Camera(2, 0, 8.5, 4, 21, 55), s.GRASS, sun=230)
    for low, side in ((-13.5, 270), (1.2, 90)):
        scene.area(s.ASPHALT, low, -5, low + 12.3, 150)
        scene.area(s.WHITE, low + 0.5, -5, low + 0.65, 150)
        scene.area(s.WHITE, low + 11.6, -5, low + 11.75, 150)
        for lane in range(3):
            scene.spawn("drive", low + 2.4 + 3.7 * lane, 5, low + 2.4 + 3.7 * lane, 75, side, 0.35)
            if lane:
                scene.dashes(low + 0.5 + 3.7 * lane, 2, 90)
    scene.fences.append(((0, 2, 0, 90), 0.9))
    scene.fences.append(((14.2, 2, 14.2, 80), 1.1))
    scene.area(s.CYCLE, 14.8, -5, 17.6, 150)
    scene.spawn("ride", 15.6, 6, 15.6, 55, 270, 0.3)
    scene.spawn("ride", 16.9, 6, 16.9, 55, 90, 0.3)
    scene.spawn("walk", 16.4, 6, 16.4, 45, 90, 0.9)
    scene.prop("lamp", (-14.6, 18), (-14.6, 42), (18.6, 24), (18.6, 50), size=1.3)
    scene.prop("tree", (-19, 30), (-22, 44), (22, 36), (24, 60), (-20, 64), (-24, 22))
    scene.prop("bush", (-16.5, 14), (-17, 22), (-16.4, 34), (19.6, 18))
    scene.building(-60, 110, -30, 130, 20, s.GREY)
    scene.building(28, 120, 60, 140, 26, s.SLATE)
    return scene


def courtyard() -> Scene:
    scene = Scene(Camera(0, 0, 9.0, -4, 29, 62), s.GRASS, sun=130)
    scene.area(s.PAVING, -26, 15, 26, 19)
    scene.area(s.PAVING, -2, 2, 2, 44)
    scene.area(s.PAVING, -7, 11, 7, 23)
    scene.area(s.ASPHALT, 13, 2, 19, 60)
    scene.building(-34, 36, -5, 48, 12, s.PALE)
    scene.building(-5, 38, 12.5, 48, 9, s.BRICK)
    scene.building(-36, 6, -17, 34, 12, s.SAND)
    scene.building(20.5, 8, 36, 60, 12, s.SAND)
    scene.spawn("walk", -16, 17, 18, 17, 0, 1.4)
    scene.spawn("walk", 0, 6, 0, 36, 90, 1.4)
    scene.spawn("walk", -6, 20, 6, 13, 320, 1.0)
    scene.spawn("ride", -16, 16, 12, 16, 180, 0.4)
    scene.spawn("ride", 0.8, 8, 0.8, 34, 90, 0.4)
    scene.spawn("rack", -7, 25, -2.5, 25, 80, 0.3)
    scene.spawn("drive", 14.6, 10, 14.6, 50, 270, 0.2)
    scene.spawn("park", 17.6, 8, 17.6, 50, 90, 0.1)
    scene.prop("tree", (-9, 27), (9, 28), (-11, 12), (8.6, 9.4))
    scene.prop("bush", (-4, 9), (-4.8, 25.8), (5, 26), (11.5, 14), (11.5, 21))
    scene.prop("bench", (-5.6, 20.8), (5.6, 20.8), (4, 12))
    scene.prop("lamp", (-7.2, 15), (7.2, 22.8), (2.6, 32), size=0.8)
    return scene


def loading_dock() -> Scene:
    scene = Scene(Camera(8, 0, 6.5, -26, 23, 60), s.CONCRETE, sun=300)
    scene.area(s.ASPHALT, -60, 4, 60, 17)
    scene.building(-50, 28, 40, 44, 9, s.GREY, windows=False)
    for number in range(7):
        scene.prop("door", (-26 + 5.5 * number, 27.98))
    scene.bays(-28.8, 10, 18.5, 27, pitch=5.5, kind="dock")
    scene.spawn("drive", -34, 12.5, 10, 12.5, 180, 0.8)
    scene.spawn("drive", -34, 8.6, 10, 8.6, 0, 0.8)
    scene.spawn("walk", -30, 16, 8, 16, 0, 1.6)
    scene.spawn("walk", -8, 6, 2, 6, 180, 1.2)
    scene.spawn("ride", -34, 15, 8, 15, 0, 0.6)
    scene.spawn("rack", -13, 5.4, -8, 5.4, 80, 0.2)
    scene.spawn("park", 3.5, 19, 3.5, 25, 90, 0.3)
    scene.prop("crate", (6.4, 24), (6.9, 25.2), (-3.4, 20), (1.8, 26))
    scene.prop("bollard", (-20.5, 18), (-15, 18), (-9.5, 18), (-4, 18))
    scene.prop("lamp", (9, 20), (-34, 20))
    scene.prop("cone", (-1, 15), (0.2, 14), (-17, 17))
    return scene


def avenue() -> Scene:
    scene = Scene(Camera(9.5, 0, 6.2, -33, 20, 58), s.GRASS, sun=170)
    scene.road(0, 5.6, -5, 120, cycle=True, walk=3.2)
    scene.building(-32, 8, -11, 30, 12, s.PALE)
    scene.building(-34, 31, -11.4, 56, 15, s.BRICK)
    scene.building(-30, 57, -11, 90, 10, s.SLATE)
    scene.prop("tree", (-8.3, 12), (-8.3, 22), (-8.3, 32), (-8.3, 44), size=0.75)
    scene.prop("lamp", (-6.3, 17), (-6.3, 38), (6.2, 26))
    scene.prop("bin", (-7.2, 14.5), (6.6, 11))
    scene.prop("sign", (6.3, 16), (-6.4, 27))
    scene.prop("bench", (-8.8, 17))
    scene.building(-9.6, 18.4, -8.4, 22, 2.4, s.TEAL)
    return scene


def school() -> Scene:
    scene = Scene(Camera(-6, 0, 5.4, 24, 21, 60), s.PAVING, sun=250)
    scene.road(17, 4.0, -60, 80, across=True, walk=2.8)
    scene.zebra(1.5, 13, 5, 21, across=True)
    scene.area(s.GRASS, -60, 26, 80, 60)
    scene.building(-10, 36, 34, 50, 9, s.BRICK)
    scene.fences.append(((-40, 25.4, 60, 25.4), 1.5))
    scene.fences.append(((-9, 9.6, 0.6, 9.6), 1.0))
    scene.fences.append(((6, 9.6, 30, 9.6), 1.0))
    scene.spawn("walk", -3, 6.4, 16, 6.4, 0, 1.6)
    scene.spawn("rack", 8, 8.4, 14, 8.4, 75, 0.2)
    scene.spawn("park", 10, 20.2, 34, 20.2, 180, 0.1)
    scene.prop("tree", (-3, 28), (8, 28.5), (19, 28), (29, 28), size=0.9)
    scene.prop("sign", (1, 12.4), (5.6, 22))
    scene.prop("lamp", (7.4, 12), (-4, 22), (22, 22.4))
    scene.prop("bush", (11, 27), (2, 27.5), (24, 27.4))
    scene.prop("hydrant", (-1.4, 12.5))
    return scene


def market() -> Scene:
    scene = Scene(Camera(4, 0, 7.2, -18, 25, 62), s.PAVING, sun=80)
    scene.road(33, 3.8, -60, 60, across=True)
    scene.prop("stall", (-16, 15), (-11, 15), (-6, 21), (2.5, 24), (-19, 24), size=1.0)
    scene.spawn("walk", -18, 12, 4, 12, 0, 1.5)
    scene.spawn("walk", -18, 18, 6, 18, 180, 1.4)
    scene.spawn("walk", -2, 7, -2, 26, 90, 1.6)
    scene.spawn("ride", -18, 27.5, 12, 27.5, 0, 0.5)
    scene.spawn("ride", 3, 8, 3, 26, 270, 0.6)
    scene.spawn("rack", 6, 17, 6, 21, 10, 0.2)
    scene.spawn("park", -12, 9.4, -9, 9.4, 200, 0.5)
    scene.spawn("dock", 7.4, 10, 7.6, 25, 100, 0.4)
    scene.building(-40, 42, -8, 56, 11, s.SAND)
    scene.building(-7.6, 42, 12, 56, 14, s.BRICK)
    scene.building(12.3, 41.6, 40, 56, 10, s.PALE)
    scene.prop("lamp", (-8, 27.6), (8.6, 27.6), (-20, 28.4))
    scene.prop("tree", (10.5, 25), (-24, 20), size=0.8)
    scene.prop("bin", (-4.6, 14), (1, 21))
    scene.prop("crate", (-13, 14), (-8.4, 15.2), (-3.6, 21))
    return scene


def junction() -> Scene:
    scene = Scene(Camera(-7.5, 0, 6.6, 27, 22, 58), s.GRASS, sun=30)
    scene.road(0, 3.8, -5, 23)
    scene.road(27, 4.2, -70, 90, across=True)
    scene.area(s.ASPHALT, -3.8, 21, 3.8, 28)
    scene.zebra(-3.8, 17, 3.8, 19.6)
    scene.building(9, 2, 26, 18.5, 8, s.SAND)
    scene.building(-14, 36, 10, 50, 10, s.SLATE)
    scene.building(14, 36, 40, 50, 13, s.PALE)
    scene.prop("lamp", (5, 20), (-5, 12), (18, 32.4))
    scene.prop("tree", (-9.5, 14), (12, 34.6), (22, 35), (31, 34.8), size=0.85)
    scene.prop("sign", (4.6, 16), (-4.4, 20.8))
    scene.prop("bush", (7.6, 16.5), (7.6, 12), (-7.5, 20.4))
    scene.prop("bin", (5.6, 13.2))
    return scene


def bridge() -> Scene:
    scene = Scene(Camera(4.4, 0, 5.8, -11, 20, 58), s.WATER, sun=160)
    scene.road(0, 5.4, -5, 70, cycle=True, walk=2.6)
    scene.area(s.GRASS, -90, 70, 90, 150)
    scene.area(s.ASPHALT, -5.4, 70, 5.4, 150)
    scene.fences.append(((-8.1, 2, -8.1, 70), 1.1))
    scene.fences.append(((8.1, 2, 8.1, 70), 1.1))
    scene.prop("lamp", (-7.7, 14), (-7.7, 32), (7.7, 22), (7.7, 44))
    scene.building(-50, 84, -14, 100, 16, s.BRICK)
    scene.building(12, 90, 44, 104, 20, s.SAND)
    scene.prop("tree", (-9, 78), (9, 76), (-24, 76), (20, 78), size=1.1)
    scene.prop("bin", (-7, 11), (6.8, 18))
    scene.prop("sign", (5.9, 14))
    return scene


def depot() -> Scene:
    scene = Scene(Camera(-6, 0, 7.6, 16, 26, 60), s.CONCRETE, sun=320)
    scene.area(s.ASPHALT, -40, 3, 50, 20)
    for number, colour in enumerate((s.BRICK, (120, 100, 60), (84, 130, 86), (70, 140, 190), s.GREY)):
        scene.building(-16 + 8 * number, 33, -9.5 + 8 * number, 35.6, 2.6 + 2.6 * (number % 2), colour, windows=False)
    scene.building(-40, 46, 60, 60, 8, s.GREY, windows=False)
    scene.bays(-14, 22, 23, 31, pitch=4.5, kind="dock", heading=270)
    scene.bays(-13, 3.2, 6.2, 11, heading=90)
    scene.spawn("drive", -18, 17.5, 28, 17.5, 180, 0.6)
    scene.spawn("drive", -18, 13.8, 28, 13.8, 0, 0.6)
    scene.spawn("walk", -14, 21.4, 24, 21.4, 0, 1.0)
    scene.spawn("walk", 6, 8, 14, 8, 180, 1.6)
    scene.spawn("ride", -16, 20, 26, 20, 180, 0.4)
    scene.spawn("ride", 4, 11.6, 22, 11.6, 0, 0.4)
    scene.spawn("rack", 7, 6.6, 10, 6.6, 85, 0.2)
    scene.prop("lamp", (24, 22), (-15, 21), (6, 32.4))
    scene.prop("cone", (5, 12.5), (16, 19.6), (-6, 12.6))
    scene.prop("crate", (12.6, 32), (4.4, 6.4), (21.6, 24))
    scene.fences.append(((-40, 40, 60, 40), 2.0))
    return scene


def station() -> Scene:
    scene = Scene(Camera(6, 0, 6.0, -22, 22, 62), s.PAVING, sun=110)
    scene.road(15, 3.6, -70, 60, across=True, walk=0, dashes=False)
    scene.area(s.KERB, -70, 18.6, 60, 18.85)
    scene.building(-44, 33, 2, 50, 10, s.PALE)
    scene.building(2.4, 34, 30, 50, 7, s.TEAL)
    scene.spawn("park", -24, 17.6, 12, 17.6, 180, 0.1)
    scene.spawn("walk", -20, 8, 8, 8, 0, 1.8)
    scene.spawn("walk", -26, 21.5, 12, 21.5, 180, 1.6)
    scene.spawn("walk", -10, 22, -6, 32, 70, 2.0)
    scene.spawn("rack", -3, 25.4, 6, 25.4, 80, 0.3)
    scene.spawn("rack", 1.5, 9.5, 4.5, 9.5, 80, 0.2)
    scene.spawn("ride", -20, 19.8, 10, 19.8, 0, 0.3)
    scene.spawn("dock", -22, 28, -16, 28, 175, 0.5)
    scene.prop("lamp", (-4.5, 19.4), (-20, 19.4), (8, 19.4), (-12, 10.2))
    scene.prop("tree", (-14, 25), (8.4, 24.4), size=0.7)
    scene.prop("bench", (-9.4, 23), (1, 21), (-15.5, 22))
    scene.prop("bollard", (-13, 19.2), (-11, 19.2), (-9, 19.2), (-7, 19.2), (-1, 19.2), (1, 19.2), (3, 19.2))
    scene.prop("bin", (-6.6, 22.8), (2.6, 19.8))
    scene.prop("stand", (-1.5, 23.6))
    return scene


PLACES: dict[str, Callable[[], Scene]] = {
    build.__name__: build
    for build in (crossing, car_park, alley, shop, highway, courtyard, loading_dock, avenue, school,
                  market, junction, bridge, depot, station)
}  # fmt: skip
