# SPDX-License-Identifier: Apache-2.0
"""Contains the box classes of the paper's layout models, in their order.

The models use 340 of the 600 box classes of Open Images: the 300 most frequent ones and
those that COCO's classes need (352 names together), except 12 that are merged into
others. Classes are numbered in the string order of their keys, except Suitcase, which
is last.

A class is one token id of a layout. Each of its attributes adds a multiple of NUM_IDS,
which is 352 because the original counts the classes before it merges them. This is
inferred from the order of its statements and was not checked with a checkpoint.

Source: rdm/data/openimages_bbox_helpers of CompVis's retrieval-augmented-diffusion-
models, which contain the classes that the released config of the layout model uses. The
names are those of class-descriptions-boxable.csv of Open Images V6; keys of six that
were renamed since V2 are inferred from the old names (Horn is "French horn").
"""

# Number of class ids in a layout's tokens; the ids from 340 on are never used.
NUM_IDS = 352
# Boxes smaller than this share of the image's area are left out, and so are images with
# fewer or more boxes than these.
MIN_AREA, MIN_BOXES, MAX_BOXES = 1e-4, 2, 30
# Key of a class -> key of the class that it is merged into.
MERGED = {
    "/m/03bt1vf": "/m/01g317",  # Woman: Person
    "/m/04yx4": "/m/01g317",  # Man: Person
    "/m/05r655": "/m/01g317",  # Girl: Person
    "/m/01bl7v": "/m/01g317",  # Boy: Person
    "/m/0cnyhnx": "/m/01xq0k1",  # Bull: Cattle
    "/m/01226z": "/m/018xm",  # Football: Ball
    "/m/05ctyq": "/m/018xm",  # Tennis ball: Ball
    "/m/058qzx": "/m/04ctx",  # Kitchen knife: Knife
    "/m/06pcq": "/m/0l515",  # Submarine sandwich: Sandwich
    "/m/03m3pdh": "/m/02crq1",  # Sofa bed: Couch
    "/m/046dlr": "/m/01x3z",  # Alarm clock: Clock
    "/m/0h8mzrc": "/m/01x3z",  # Wall clock: Clock
}
# Key, without "/m/", and name of each class, in the order of their numbers.
_TABLE = """
011k07 Tortoise; 0120dh Sea turtle; 012xff Toothbrush; 0130jx Sink; 0138tl Toy; 014j1m
Apple; 014sv8 Human eye; 014trl Cosmetics; 014y4n Paddle; 01599 Beer; 015h_t Human
beard; 015p6 Bird; 015qbp Parking meter; 015qff Traffic light; 015x4r Cucumber; 0167gd
Doll; 016m2d Skull; 017ftj Sunglasses; 018p4k Cart; 018xm Ball; 01940j Backpack; 0199g
Bicycle; 019dx1 Home appliance; 019jd Boat; 019w40 Surfboard; 01_bhs Fast food; 01b638
Boot; 01b7fy Headphones; 01b9xk Hot dog; 01bfm9 Shorts; 01bjv Bus; 01bqk0 Bicycle
wheel; 01c648 Laptop; 01d40f Dress; 01dws Bear; 01fb_0 Bagel; 01fdzj Tower; 01g317
Person; 01gkx_ Swimwear; 01gmv2 Brassiere; 01h3n Bee; 01j51 Balloon; 01j61q Tent;
01jfm_ Vehicle registration plate; 01jfsr Lantern; 01k6s3 Toaster; 01knjb Billboard;
01llwg Necklace; 01lrl Carnivore; 01lsmm Scissors; 01lynh Stairs; 01m2v Computer
keyboard; 01mqdt Traffic sign; 01mzpv Chair; 01n4qj Shirt; 01n5jq Poster; 01nkt
Cheese; 01nq26 Sock; 01pns0 Fire hydrant; 01prls Land vehicle; 01r546 Earrings; 01rkbr
Tie; 01rzcn Watercraft; 01s105 Cabinetry; 01tcjp Muffin; 01ww8y Snack; 01x3z Clock;
01x_v Camel; 01xgg_ Medical equipment; 01xq0k1 Cattle; 01xqw Cello; 01xygc Coat;
01xyhv Suit; 01y9k5 Desk; 01yrx Cat; 01yx86 Bronze sculpture; 01z1kdw Juice; 02068x
Gondola; 020jm Beetle; 020kz Cannon; 020lf Computer mouse; 021mn Cookie; 021sj1 Office
building; 0220r2 Fountain; 0242l Coin; 024g6 Cocktail; 02522 Computer monitor; 025dyy
Box; 025nd Christmas tree; 025rp__ Cowboy hat; 0268lbt Hiking equipment; 026qbn5
Studio couch; 026t6 Drum; 0270h Dessert; 0271t Drink; 027pcv Zucchini; 0283dt1 Human
mouth; 0284d Dairy Product; 029bxz Oven; 029tx Dinosaur; 02_n6y Goggles; 02crq1 Couch;
02d9qx Whiteboard; 02dgv Door; 02dl1y Hat; 02fq_6 Fedora; 02h19r Scarf; 02hj4 Dolphin;
02jnhm Tin can; 02jvh9 Mug; 02l8p9 Harbor seal; 02p0tk3 Human body; 02p3w7d Roller
skates; 02p5f1q Coffee cup; 02pv19 Stop sign; 02rdsp Office supplies; 02s195 Vase;
02vqfm Coffee; 02wbm Food; 02wbtzl Sun hat; 02wmf Flying disc; 02wv6h6 Skirt; 02xwb
Fruit; 02y6n French fries; 02zn6n Barrel; 02zt3 Kite; 03120 Flag; 0319l French horn;
031n1 Human foot; 032b3c Jacket; 033cnk Egg (Food); 033rq4 Street light; 0342h Guitar;
034c16 Pillow; 035r7c Human leg; 0388q Grape; 039xj_ Human ear; 03__z0 Bookcase; 03bj1
Panda; 03bk1 Giraffe; 03fj2 Goldfish; 03fp41 Houseplant; 03fwl Goat; 03g8mr Baseball
bat; 03grzl Baseball glove; 03hl4l9 Marine invertebrates; 03jm5 House; 03k3r Horse;
03nfch Sandal; 03p3bw Bicycle helmet; 03q5c7 Saucer; 03q69 Human hair; 03rszm Curtain;
03ssj5 Bed; 03vt0 Insect; 03wvsk Hair dryer; 03xxp Invertebrate; 040b_t Refrigerator;
0463sg Fashion accessory; 04_sv Motorcycle; 04bcr3 Table; 04brg2 Tableware; 04ctx
Knife; 04dr76w Bottle; 04gth Lavender (Plant); 04h7h Lighthouse; 04hgtk Human head;
04kkgm Bowl; 04m6gz Porch; 04m9y Lizard; 04szw Musical instrument; 04yqq2 Bust; 050gv4
Plate; 050k8 Mobile phone; 052lwg6 Baked goods; 052sf Mushroom; 054_l Mirror; 054xkw
Personal flotation device; 057cc Musical keyboard; 05kyg_ Chest of drawers; 05n4y
Ostrich; 05r5c Piano; 05s2s Plant; 05y5lj Sports equipment; 05z6w Penguin; 05zsy
Pumpkin; 061_f Pear; 0633h Polar bear; 0642b4 Cupboard; 0663v Pizza; 068zj Pig; 06__v
Snowboard; 06_fw Skateboard; 06c54 Rifle; 06k2mb High heels; 06m11 Rose; 06mf6 Rabbit;
06msq Sculpture; 06ncr Saxophone; 06nwz Seafood; 06z37_ Picture frame; 07030 Sushi;
071p9 Ski; 071qp Squirrel; 073bxn Tripod; 078jl Snake; 078n6m Coffee table; 079cl
Skyscraper; 07bgp Sheep; 07c52 Television; 07clx Tea; 07cmd Tank; 07dm6 Tiger; 07fbm7
Strawberry; 07gql Trumpet; 07j7r Tree; 07j87 Tomato; 07jdr Train; 07k1x Tool; 07mhn
Trousers; 07qxg_ Football helmet; 07r04 Truck; 07y_7 Violin; 07yv9 Vehicle; 080hkjn
Handbag; 081qc Wine; 083kb Weapon; 083wq Wheel; 0898b Zebra; 08dz3q Auto part; 08pbxl
Monkey; 096mb Lion; 09728 Bread; 099ssp Platter; 09b5t Chicken; 09csl Eagle; 09ct_
Helicopter; 09d5_ Owl; 09ddx Duck; 09f_2 Crocodile; 09g1w Toilet; 09j2d Clothing;
09j5n Footwear; 09k_b Lemon; 09kmb Spider; 09kx5 Deer; 09ld4 Frog; 09qck Banana;
09tvcd Wine glass; 0_cp5 Oyster; 0b3fp9 Countertop; 0b_rs Swimming pool; 0bjyj5 Waste
container; 0bt9lr Dog; 0bt_c3 Book; 0bwd_0j Elephant; 0by6g Shark; 0c06p Candle;
0c9ph5 Flower; 0c_jw Furniture; 0cdl1 Palm tree; 0cdn1 Hamburger; 0cffdh Maple; 0cgh4
Building; 0ch_cf Fish; 0cmf2 Airplane; 0cmx8 Spoon; 0crjs Convenience store; 0cvnqh
Bench; 0cxn2 Ice cream; 0cyf8 Butterfly; 0cyfs Parachute; 0cyhj_ Orange; 0czz2
Antelope; 0d4v4 Window; 0d5gx Castle; 0d8zb Jellyfish; 0d_2m Moths and butterflies;
0dbvp Goose; 0dbzx Mule; 0dftk Swan; 0dt3t Fork; 0dtln Lamp; 0dv5r Camera; 0dzct Human
face; 0dzf4 Human arm; 0f4s2w Vegetable; 0f6wt Falcon; 0f9_l Snail; 0fbdv Shellfish;
0fj52s Carrot; 0fly7 Jeans; 0fm3zh Flowerpot; 0fqfqc Drawer; 0fqt361 Stool; 0fszt
Cake; 0ft9s Dragonfly; 0ftb8 Common sunflower; 0fx9l Microwave oven; 0gd2v Marine
mammal; 0gd36 Sea lion; 0gj37 Ladybug; 0gjbg72 Shelf; 0gjkl Watch; 0gm28 Candy; 0grw1
Salad; 0gv1x Parrot; 0h23m Sparrow; 0h2r6 Van; 0h8mhzd Sports uniform; 0h8my_4 Tennis
racket; 0h8n5zk Kitchen & dining room table; 0h8nr_l Bathroom accessory; 0h99cwc
Kitchen appliance; 0h9mv Tire; 0hf58v5 Luggage and bags; 0hg7b Microphone; 0hkxq
Broccoli; 0hnnb Umbrella; 0hnyx Pastry; 0hqkz Grapefruit; 0jbk Animal; 0jqgx Lily;
0jy4k Doughnut; 0jyfg Glasses; 0k0pj Human nose; 0k1tl Pen; 0k4j Car; 0k5j Aircraft;
0k65p Human hand; 0kmg4 Teddy bear; 0l515 Sandwich; 0ll1f78 Shrimp; 0n28_ Crab; 0pg52
Taxi; 0ph39 Canoe; 0qjjc Remote control; 0qmmr Wheelchair; 0zvk5 Helmet; 01s55n
Suitcase
"""
# Key -> name.
CLASSES = dict(
    ("/m/" + key, name)
    for key, _, name in (e.partition(" ") for e in " ".join(_TABLE.split()).split("; "))
)
NAMES = tuple(CLASSES.values())


def class_numbers() -> dict[str, int]:
    """Returns the number of each class by its key, also for merged classes."""
    numbers = {key: number for number, key in enumerate(CLASSES)}
    return numbers | {key: numbers[kept] for key, kept in MERGED.items()}
